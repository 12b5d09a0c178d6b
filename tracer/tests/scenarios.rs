//! Correlation, from the bytes of the ring buffer to the report: one file per situation.

mod support;

use std::{fs, path::Path};

use pkttrace::{
    event::Event,
    journey::{Builder, Options},
    report::{Context, Journey},
};
use support::{expect, network, packet, script::Script};

/// Plays a scenario and checks what it expects.
fn check(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(file);
    let text = fs::read_to_string(&path).expect("the scenario is readable");
    let journeys = play(&text);
    let mut current = None;
    for line in text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        if let Some(id) = line.strip_prefix("expect ") {
            let found = journeys.iter().find(|j| j.id == id.trim());
            current = Some(found.unwrap_or_else(|| panic!("{file}: no journey {id}")));
        } else if let Some(journey) = current.filter(|_| line.starts_with(' ')) {
            if std::env::var_os("SHOW").is_some() {
                println!("{} {}", journey.id, journey.path);
            }
            expect::check(line.trim(), journey);
        } else {
            current = None;
        }
    }
}

/// The journeys of a scenario, in the order in which they are handed out.
fn play(text: &str) -> Vec<Journey> {
    let state = network::cluster();
    let context = Context { node: "lab".to_owned(), ..Context::default() };
    let mut script = Script::default();
    let mut builder = Builder::new(Options::default());
    let mut finished = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["packet", name, "=", ref description @ ..] => {
                let packet = packet::build(description, &script.packets);
                script.packets.insert(name.to_owned(), packet);
            }
            ["at", ref event @ ..] => {
                for record in script.events(&state, event) {
                    builder.push(Event::decode(&record).expect("a record"));
                }
            }
            ["now", micros] => {
                let now = micros.parse::<u64>().expect("microseconds") * 1000;
                finished.extend(builder.take_finished(now, &state, &script.kernel));
            }
            _ => {}
        }
    }
    finished.extend(builder.flush(&state, &script.kernel));
    assert_eq!(builder.open_count(), 0);
    finished.iter().map(|j| Journey::from(j, &context)).collect()
}

macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            check(concat!(stringify!($name), ".txt"));
        })+

        #[test]
        fn every_scenario_is_listed() {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
            for entry in fs::read_dir(dir).expect("readable") {
                let name = entry.expect("readable").file_name().into_string().expect("UTF-8");
                let Some(stem) = name.strip_suffix(".txt") else { continue };
                assert!([$(stringify!($name)),+].contains(&stem), "{name} is not listed");
            }
        }
    };
}

scenarios! {
    bridge_flood_makes_clones,
    cluster_ip_dnat_and_reply,
    cross_node_ping_over_vxlan,
    drop_in_a_hook_names_the_hook,
    fragments_and_segments,
    frees_that_are_no_drops,
    icmp_error_is_a_child,
    ipv6_ping_and_neighbour_discovery,
    lost_events_are_told,
    masquerade_and_reply,
    nat_without_hook_probes,
    neighbour_that_never_answers,
    output_dnat_is_routed_again,
    routes_that_say_no,
    same_node_ping_over_a_bridge,
    same_node_ping_with_br_netfilter,
    tc_programs,
    tcp_settles_and_is_retransmitted,
    what_is_under_way_is_in_flight,
}
