//! What each format makes of a few scenarios, compared with `tests/snapshots`.
//!
//! `UPDATE_SNAPSHOTS=1 cargo test -p pkttrace --test journey` writes them anew; read the diff.

use std::{env, fs, path::Path};

use clap::ValueEnum;
use pkttrace::{
    render::{self, Format, Style},
    report::Summary,
};

use super::support;

/// Scenarios that between them show every kind of row.
const SHOWN: &[&str] = &[
    "bridge_flood_makes_clones",
    "cross_node_ping_over_vxlan",
    "drop_in_a_hook_names_the_hook",
    "icmp_error_is_a_child",
    "lost_events_are_told",
    "masquerade_and_reply",
    "neighbour_that_never_answers",
    "routes_that_say_no",
];

#[test]
fn every_format_renders_as_before() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let is_update = env::var_os("UPDATE_SNAPSHOTS").is_some();
    for name in SHOWN {
        for format in Format::ALL {
            let value = format.to_possible_value().expect("every format has a name");
            let path = dir.join(format!("{name}.{}", value.get_name()));
            let text = rendered(
                name,
                *format,
                Style { has_color: false, width: Some(100), ..Style::default() },
            );
            if is_update {
                fs::write(&path, &text).expect("the snapshot is writable");
            }
            let before = fs::read_to_string(&path).unwrap_or_default();
            assert!(before == text, "{} differs:\n{text}", path.display());
        }
    }
}

#[test]
fn colour_adds_nothing_but_escape_sequences() {
    for name in SHOWN {
        for format in [Format::Tree, Format::Line] {
            let plain = rendered(
                name,
                format,
                Style { has_color: false, width: Some(100), ..Style::default() },
            );
            let colored = rendered(
                name,
                format,
                Style { has_color: true, width: Some(100), ..Style::default() },
            );
            assert!(colored.contains("\x1b["));
            assert_eq!(without_escapes(&colored), plain);
        }
    }
}

#[test]
fn a_name_cannot_write_to_the_terminal() {
    let mut journeys = support::play(&support::scenario("masquerade_and_reply.txt"));
    let evil = "a\x1b[2J\nb\u{202e}";
    for journey in &mut journeys {
        journey.path.push_str(evil);
        for hop in &mut journey.hops {
            hop.netns.name = evil.to_owned();
            hop.note = Some(evil.to_owned());
        }
    }
    for format in Format::ALL {
        let mut out = Vec::new();
        let mut renderer = render::new(*format, Style::default());
        for journey in &journeys {
            renderer.journey(journey, &mut out).expect("a Vec takes everything");
        }
        renderer.summary(&Summary::new(), &mut out).expect("a Vec takes everything");
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(!text.contains('\x1b'), "{format:?}");
        assert!(*format == Format::Json || !text.contains('\u{202e}'), "{format:?}");
    }
}

fn rendered(name: &str, format: Format, style: Style) -> String {
    let mut out = Vec::new();
    let mut renderer = render::new(format, style);
    for journey in support::play(&support::scenario(&format!("{name}.txt"))) {
        renderer.journey(&journey, &mut out).expect("a Vec takes everything");
    }
    renderer.summary(&Summary::new(), &mut out).expect("a Vec takes everything");
    String::from_utf8(out).expect("UTF-8")
}

fn without_escapes(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("\x1b[") {
        plain.push_str(&rest[..at]);
        let end = rest[at..].find('m').expect("a colour sequence");
        rest = &rest[at + end + 1..];
    }
    plain + rest
}
