//! What nf_tables itself tells of its tables, chains, rules, sets and their elements, as bytes: what
//! they mean is read in `firewall/nft`.

mod attrs;

use std::collections::HashMap;
use std::io;

pub(crate) use self::attrs::{Attrs, user_data};
use super::wire::{Answer, Netlink, attribute, attributes_after, text, u8_at};

/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10 << 8;
/// `NFT_MSG_GETTABLE`.
const GET_TABLE: u16 = NFTABLES | 1;
/// `NFT_MSG_GETCHAIN`.
const GET_CHAIN: u16 = NFTABLES | 4;
/// `NFT_MSG_GETRULE`.
const GET_RULE: u16 = NFTABLES | 7;
/// `NFT_MSG_GETSET`.
const GET_SET: u16 = NFTABLES | 10;
/// `NFT_MSG_GETSETELEM`.
const GET_ELEMENTS: u16 = NFTABLES | 13;
/// `NFTA_SET_ELEM_LIST_SET`.
const ELEMENTS_SET: u16 = 2;
/// `struct nfgenmsg`: family, version, resource.
const HEADER: usize = 4;
/// `NFTA_TABLE_NAME`, and `NFTA_RULE_TABLE` as well.
const TABLE: u16 = 1;
/// `NFTA_RULE_CHAIN`.
const CHAIN: u16 = 2;
/// `NFTA_RULE_HANDLE`.
const HANDLE: u16 = 3;

/// `NFPROTO_*` by nft's words.
const FAMILIES: [(u8, &str); 6] =
    [(1, "inet"), (2, "ip"), (3, "arp"), (5, "netdev"), (7, "bridge"), (10, "ip6")];

/// Family (`ip`, `inet`, …) and name of the tables of the calling thread's namespace, in the
/// kernel's order.
///
/// # Errors
///
/// `EPERM` without `CAP_NET_ADMIN`; `EINVAL` where the kernel has no nf_tables.
pub(crate) fn tables_here() -> io::Result<Vec<(&'static str, String)>> {
    let answer = Netlink::open(libc::NETLINK_NETFILTER)?.dump(GET_TABLE, &[0; HEADER])?;
    let table = |body: &[u8]| {
        let family = u8_at(body, 0)?;
        let (_, family) = *FAMILIES.iter().find(|(number, _)| *number == family)?;
        let name = attributes_after(body, HEADER).find(|(kind, _)| *kind == TABLE)?.1;
        Some((family, text(name)))
    };
    Ok(answer.messages().filter_map(|(_, body)| table(body)).collect())
}

/// The handles of the rules of a table of the calling thread's namespace, by chain, in order.
///
/// # Errors
///
/// As [`tables_here`].
pub(crate) fn handles_here(family: &str, table: &str) -> io::Result<HashMap<String, Vec<u64>>> {
    let answer = Reader::open()?.rules(family, table)?;
    let mut handles: HashMap<String, Vec<u64>> = HashMap::new();
    for rule in answer.of_table(table) {
        if let (Some(chain), Some(handle)) = (rule.text(CHAIN), rule.be64(HANDLE)) {
            handles.entry(chain).or_default().push(handle);
        }
    }
    Ok(handles)
}

/// Bytes that the rules of one namespace may take: whoever owns one can make them as large as they
/// like.
const MAX_BYTES: usize = 128 << 20;

/// Asks nf_tables in the namespace of the thread that opened it.
pub(crate) struct Reader {
    netlink: Netlink,
    /// Of [`MAX_BYTES`].
    left: usize,
}

/// The name of a device of the calling thread's namespace.
pub(crate) fn device_name(index: u32) -> Option<String> {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer is as large as the call asks for.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    (!found.is_null()).then(|| text(&name))
}

/// Messages about one kind of object.
pub(crate) struct Objects(Answer);

impl Objects {
    /// The attributes of each.
    pub(crate) fn all(&self) -> impl Iterator<Item = Attrs<'_>> {
        self.messages().map(|body| Attrs(body.get(HEADER..).unwrap_or_default()))
    }

    /// Of those of one table: kernels before 5.3 ignore the wish for one.
    pub(crate) fn of_table<'a>(&'a self, table: &'a str) -> impl Iterator<Item = Attrs<'a>> {
        self.all().filter(move |object| object.text(TABLE).as_deref() == Some(table))
    }

    fn messages(&self) -> impl Iterator<Item = &[u8]> {
        self.0.messages().map(|(_, body)| body)
    }
}

impl Reader {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open(libc::NETLINK_NETFILTER)?, left: MAX_BYTES })
    }

    fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Objects> {
        let answer = self.netlink.dump_up_to(kind, body, self.left);
        match answer {
            Ok(answer) => {
                self.left = self.left.saturating_sub(answer.len());
                Ok(Objects(answer))
            }
            Err(error) => {
                // What is left of that answer would be in the way of the next.
                self.netlink = Netlink::open(libc::NETLINK_NETFILTER)?;
                Err(error)
            }
        }
    }

    /// The chains of all tables of a family.
    pub(crate) fn chains(&mut self, family: &str) -> io::Result<Objects> {
        self.dump(GET_CHAIN, &header(family))
    }

    /// The rules of a table, chain by chain.
    pub(crate) fn rules(&mut self, family: &str, table: &str) -> io::Result<Objects> {
        let body = [&header(family)[..], &attribute(TABLE, &c_string(table))].concat();
        self.dump(GET_RULE, &body)
    }

    /// The sets and maps of a table, those without a name among them.
    pub(crate) fn sets(&mut self, family: &str, table: &str) -> io::Result<Objects> {
        let body = [&header(family)[..], &attribute(TABLE, &c_string(table))].concat();
        self.dump(GET_SET, &body)
    }

    /// The elements of a set, in messages of several.
    pub(crate) fn elements(&mut self, family: &str, table: &str, set: &str) -> io::Result<Objects> {
        let (table, set) = (c_string(table), c_string(set));
        let body = [&header(family)[..], &attribute(TABLE, &table), &attribute(ELEMENTS_SET, &set)];
        self.dump(GET_ELEMENTS, &body.concat())
    }
}

fn header(family: &str) -> [u8; HEADER] {
    let number = FAMILIES.iter().find(|(_, name)| *name == family).map_or(0, |(number, _)| *number);
    [number, 0, 0, 0]
}

fn c_string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_not_there_has_no_rules() {
        assert!(tables_here().is_ok());
        assert_eq!(handles_here("ip", "no-such-table").unwrap_or_default(), HashMap::new());
    }
}
