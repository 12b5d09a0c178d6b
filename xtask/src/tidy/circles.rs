//! Circles of imports: two files that need each other can only be read, tested and changed
//! together. A module and those inside it are one thing; what goes through a type's own methods is
//! no import.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemUse, UseTree};

/// The path of a module below its crate.
type Module = Vec<String>;

/// The offences of a crate, whose files are given by their paths below `src`.
///
/// # Errors
///
/// When a file is no Rust.
pub(super) fn check(files: &BTreeMap<String, String>) -> syn::Result<Vec<String>> {
    let modules: BTreeMap<Module, &str> =
        files.iter().map(|(path, text)| (module(path), text.as_str())).collect();
    let mut imports = BTreeMap::new();
    for (module, text) in &modules {
        let mut seen = Paths { module, found: Vec::new() };
        seen.visit_file(&syn::parse_file(text)?);
        let targets = seen.found.iter().filter_map(|path| nearest(path, &modules));
        let others = targets.filter(|t| !t.starts_with(module) && !module.starts_with(t));
        imports.insert(module.clone(), others.collect::<BTreeSet<_>>());
    }
    Ok(circles(imports).iter().map(|circle| said(circle)).collect())
}

/// `a/b.rs` is `a::b`, `a/mod.rs` is `a`; the roots are the crate.
fn module(path: &str) -> Module {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let mut parts: Module = stem.split('/').map(str::to_owned).collect();
    let is_root = parts.len() == 1 && matches!(stem, "lib" | "main");
    if is_root || parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// The module that a path leads to or into; the crate's root is none.
fn nearest(path: &[String], modules: &BTreeMap<Module, &str>) -> Option<Module> {
    let mut parts = (1..=path.len()).rev().map(|n| &path[..n]);
    parts.find(|part| modules.contains_key(*part)).map(<[String]>::to_vec)
}

fn said(circle: &[Module]) -> String {
    let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
    format!("{} import each other", names.join(", "))
}

/// Paths within the crate, tests apart.
struct Paths<'a> {
    module: &'a Module,
    found: Vec<Module>,
}

impl Paths<'_> {
    /// Notes a path that begins in the crate.
    fn note(&mut self, path: &[String]) {
        let Some((first, rest)) = path.split_first() else { return };
        let mut base: Module = match first.as_str() {
            "crate" => Vec::new(),
            "self" => self.module.clone(),
            "super" => self.module.split_last().map_or(Vec::new(), |(_, up)| up.to_vec()),
            _ => return,
        };
        for part in rest {
            if part == "super" {
                base.pop();
            } else if part != "self" {
                base.push(part.clone());
            }
        }
        self.found.push(base);
    }

    fn tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) => self.note(&with(&name.ident)),
            UseTree::Rename(name) => self.note(&with(&name.ident)),
            UseTree::Glob(_) => self.note(before),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(before, item)),
        }
    }
}

impl Visit<'_> for Paths<'_> {
    fn visit_item(&mut self, item: &Item) {
        let attributes: &[Attribute] = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &[],
        };
        if !attributes.iter().any(is_test) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let parts: Module = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if parts.len() > 1 {
            self.note(&parts);
        }
        visit::visit_path(self, path);
    }
}

/// `#[cfg(test)]`
fn is_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Ident>().is_ok_and(|what| what == "test")
}

/// Takes away what imports nothing that is left, and what nothing that is left imports: what then
/// remains goes round.
fn circles(mut imports: BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<Module>> {
    loop {
        let left: BTreeSet<Module> = imports.keys().cloned().collect();
        let wanted: BTreeSet<Module> = imports.values().flatten().cloned().collect();
        imports.values_mut().for_each(|targets| targets.retain(|t| left.contains(t)));
        imports.retain(|module, targets| !targets.is_empty() && wanted.contains(module));
        if imports.len() == left.len() {
            break;
        }
    }
    let mut found: Vec<Vec<Module>> = Vec::new();
    for module in imports.keys() {
        if found.iter().flatten().any(|known| known == module) {
            continue;
        }
        let forth = reached(module, &imports);
        let circle: Vec<Module> =
            forth.into_iter().filter(|m| reached(m, &imports).contains(module)).collect();
        if !circle.is_empty() {
            found.push(circle);
        }
    }
    found
}

/// All that a module imports, and what that imports.
fn reached(from: &Module, imports: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<Module> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        for target in imports.get(module).into_iter().flatten() {
            if seen.insert(target.clone()) {
                open.push(target);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offences(files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        check(&files.collect()).expect("Rust")
    }

    #[test]
    fn files_that_import_each_other_are_told() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b::{self, Thing};"),
            ("b/mod.rs", "mod deep; fn f() { super::c::g() }"),
            ("b/deep.rs", "use super::super::a;"),
            ("c.rs", "use crate::b::deep::X as Y;"),
        ];
        assert_eq!(offences(&files), ["a, b, b::deep, c import each other"]);
    }

    #[test]
    fn what_lies_inside_or_below_is_no_circle() {
        let files = [
            ("main.rs", "mod a; mod b; use a::x;"),
            ("a/mod.rs", "mod inner; use inner::*; pub use self::inner::Y;"),
            ("a/inner.rs", "use super::Z; use crate::b::W;"),
            ("b.rs", "#[cfg(test)] mod tests { use crate::a::Z; }"),
        ];
        assert!(offences(&files).is_empty());
    }
}
