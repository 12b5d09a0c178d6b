//! Rules as kube-proxy and others write them, and where they lead.

use super::*;

const NODE: &str = "203.0.113.7";

fn place(rules: &str, ruleset: &str) -> Place {
    let saved = format!("*nat\n{rules}\nCOMMIT\n");
    let firewall = crate::firewall::parsed(&[("ip", &saved)], ruleset);
    Place { firewall, locals: [NODE.parse().unwrap()].into(), ipvs: Vec::new() }
}

/// What is wanted beside this destination.
fn also(place: &Place, to: &str, port: Option<u16>) -> Option<Vec<String>> {
    let network: Network = to.parse().unwrap();
    let end = End { network: Some((network.addr, network.len)), port, ..End::default() };
    let wanted = Wanted { pairs: vec![(End::default(), end)], ..Wanted::default() };
    let (wide, why) = widened(&wanted, [place].into_iter());
    let (_, dst) = &wide.pairs[0];
    assert_eq!(dst.is_any(), why.is_some());
    why.is_none().then(|| dst.also.iter().map(ToString::to_string).collect())
}

fn list(addrs: &[&str]) -> Option<Vec<String>> {
    Some(addrs.iter().map(|a| (*a).to_owned()).collect())
}

fn kube() -> Place {
    place(
        ":PREROUTING ACCEPT [0:0]\n:SERVICES - [0:0]\n:SVC - [0:0]\n:SEP - [0:0]\n\
         :NODEPORTS - [0:0]\n:OTHER - [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
         -A PREROUTING -j SERVICES\n\
         -A SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j SVC\n\
         -A SERVICES -d 10.96.0.11/32 -p tcp -m tcp --dport 80 -j OTHER\n\
         -A SERVICES -m addrtype --dst-type LOCAL -j NODEPORTS\n\
         -A NODEPORTS -p tcp -m tcp --dport 30080 -j SVC\n\
         -A SVC -j SEP\n\
         -A SEP -p tcp -m tcp -j DNAT --to-destination 10.244.1.3:8080\n\
         -A OTHER -p tcp -m tcp -j DNAT --to-destination 10.244.1.4:8080\n\
         -A POSTROUTING -s 10.244.0.0/16 -j MASQUERADE",
        "",
    )
}

#[test]
fn a_service_leads_to_its_endpoints_and_back() {
    let kube = kube();
    assert_eq!(also(&kube, "10.96.0.10", Some(80)), list(&["10.244.1.3"]));
    assert_eq!(also(&kube, "10.96.0.10", Some(81)), list(&[]));
    assert_eq!(also(&kube, "10.244.1.4", None), list(&["10.96.0.11"]));
    assert_eq!(also(&kube, "192.0.2.77", None), list(&[]));
    // A NodePort is every address of the node: from the endpoint's side, that is no address.
    assert_eq!(also(&kube, NODE, Some(30080)), list(&["10.244.1.3"]));
    assert_eq!(also(&kube, "10.244.1.3", None), list(&["10.96.0.10"]));
    assert_eq!(also(&kube, "10.96.0.0/16", None), list(&["10.244.1.3", "10.244.1.4"]));
}

#[test]
fn sources_may_become_those_of_the_node() {
    let from = End { network: Some(("10.244.1.3".parse().unwrap(), 32)), ..End::default() };
    let wanted = Wanted { pairs: vec![(from, End::default())], ..Wanted::default() };
    let (wide, _) = widened(&wanted, [&kube()].into_iter());
    assert_eq!(wide.pairs[0].0.also, [NODE.parse().unwrap()].into());
    assert!(wide.pairs[0].1.is_any());
}

#[test]
fn maps_of_nftables_lead_on() {
    let place = place(
        "",
        "table ip kube {\n\tmap services {\n\t\ttype ipv4_addr . inet_proto . inet_service : verdict\n\
         \t\telements = { 10.96.0.10 . tcp . 80 : goto service-a,\n\t\t\t     10.96.0.11 . tcp . 80 : goto service-b }\n\t}\n\
         \tchain pre {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\
         \t\tip daddr . meta l4proto . th dport vmap @services\n\t}\n\
         \tchain service-a {\n\t\tmeta l4proto tcp dnat to 10.244.1.3:8080\n\t}\n\
         \tchain service-b {\n\t\tmeta l4proto tcp dnat to 10.244.1.4:8080\n\t}\n}\n",
    );
    assert_eq!(also(&place, "10.96.0.10", None), list(&["10.244.1.3"]));
}

#[test]
fn what_is_not_spelled_out_is_anything() {
    let range = place(
        ":PREROUTING ACCEPT [0:0]\n\
         -A PREROUTING -d 10.96.0.10/32 -j DNAT --to-destination 10.1.0.1-10.1.0.9",
        "",
    );
    assert_eq!(also(&range, "10.96.0.10", None), None);
    assert_eq!(also(&range, "10.96.0.11", None), list(&[]));
}

#[test]
fn virtual_servers_lead_both_ways() {
    let [server, real] = ["10.96.0.10", "10.244.1.3"].map(|a| a.parse().unwrap());
    let place = Place { ipvs: vec![(server, vec![real])], ..Place::default() };
    assert!(place.translates() && !Place::default().translates());
    assert_eq!(also(&place, "10.96.0.10", None), list(&["10.244.1.3"]));
    assert_eq!(also(&place, "10.244.1.3", None), list(&["10.96.0.10"]));
}
