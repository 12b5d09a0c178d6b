//! Correlation, from the bytes of the ring buffer to the report: one file per situation.

use std::{fs, path::Path};

use super::support::{self, expect};

/// Plays a scenario and checks what it expects.
fn check(file: &str) {
    let text = support::scenario(file);
    let journeys = support::play(&text);
    let mut current = None;
    for line in text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        if let Some(id) = line.strip_prefix("expect ") {
            let found = journeys.iter().find(|j| j.id == id.trim());
            current = Some(found.unwrap_or_else(|| panic!("{file}: no journey {id}")));
        } else if let Some(journey) = current.filter(|_| line.starts_with(' ')) {
            expect::check(line.trim(), journey);
        } else {
            current = None;
        }
    }
}

macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => {
        /// Every scenario.
        pub(crate) const ALL: &[&str] = &[$(concat!(stringify!($name), ".txt")),+];

        $(#[test]
        fn $name() {
            check(concat!(stringify!($name), ".txt"));
        })+

        #[test]
        fn every_scenario_is_listed() {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
            for entry in fs::read_dir(dir).expect("readable") {
                let name = entry.expect("readable").file_name().into_string().expect("UTF-8");
                assert!(!name.ends_with(".txt") || ALL.contains(&&*name), "{name} is not listed");
            }
        }
    };
}

scenarios! {
    bridge_flood_makes_clones,
    cluster_ip_dnat_and_reply,
    conntrack_finds_it_invalid,
    cross_node_ping_over_vxlan,
    drop_in_a_hook_names_the_hook,
    fragments_and_segments,
    function_probes_alone,
    function_probes_beside_links,
    ipvs_translates_at_input,
    fragments_put_together,
    frees_that_are_no_drops,
    icmp6_with_reasons,
    icmp6_without_reasons,
    icmp_error_is_a_child,
    ipv6_ping_and_neighbour_discovery,
    lost_events_are_told,
    masquerade_and_reply,
    nat_without_hook_probes,
    neighbour_report_comes_late,
    neighbour_that_answers,
    neighbour_that_never_answers,
    output_dnat_is_routed_again,
    routes_that_say_no,
    same_node_ping_over_a_bridge,
    same_node_ping_with_br_netfilter,
    tc_programs,
    tcp_settles_and_is_retransmitted,
    tracepoints_alone,
    what_is_under_way_is_in_flight,
}
