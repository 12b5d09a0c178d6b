//! Links, neighbours and tunnels.

pub(super) const TEXTS: super::Texts = &[
    (
        &["link-down", "veth-host-down", "veth-pod-down", "lo-down", "bridge-down"],
        "A device that is down sends and takes nothing, and says nothing: frames vanish without a \
         drop event. Of a veth pair both ends have to be up, and a bridge itself besides its ports.",
    ),
    (
        &["veth-detached-from-bridge", "bridge-no-ports"],
        "The host's end of a pod's veth has to be a port of the bridge: else its frames come to the \
         host itself and go no further, and the bridge has nobody to send to.",
    ),
    (
        &[
            "bridge-port-isolated",
            "bridge-port-blocking",
            "bridge-port-no-flood",
            "bridge-port-locked",
        ],
        "A bridge port passes frames only in state forwarding; isolated ports do not reach each \
         other, a locked one takes only addresses that were entered, and one without flooding gets \
         nothing for addresses that are not known yet. None of that is a drop event.",
    ),
    (
        &["fdb-stale"],
        "A bridge sends a frame to the port that its forwarding table names for the address. A \
         static entry that is wrong is never learned anew.",
    ),
    (
        &["svc-hairpin-off"],
        "A bridge does not send a frame back to the port that it came from unless that port is in \
         hairpin mode: a pod that its own Service leads to itself waits in vain.",
    ),
    (
        &["macvlan-host-isolation", "macvlan-mode"],
        "Macvlan devices do not reach the device that they lie on, and reach each other only in mode \
         bridge: it is how macvlan works.",
    ),
    (
        &["bridge-vlan-filtering", "vlan-filtering-mismatch", "vlan-id-mismatch"],
        "A bridge with vlan_filtering joins only ports of the same VLAN. An untagged frame is in the \
         VLAN that is the PVID of the port that it comes in by, and leaves only by ports that are in \
         that VLAN too: without a tag where the VLAN is marked untagged there, else with one. The \
         bridge itself counts as a port (`self`). A tagged frame is taken only by a subinterface of \
         exactly that VLAN; everybody else drops it without a word.",
    ),
    (
        &["neighbour-silent", "veth-missing", "pod-ip-missing", "cni0-no-ip", "cni0-wrong-ip"],
        "Before a packet can leave by Ethernet, its next hop's link-layer address has to be known. \
         The kernel asks three times, a second apart, and then gives up: the sender is told \"host \
         unreachable\" and every packet that waits is dropped (NEIGH_FAILED). Who is not there, or \
         has lost the address, does not answer.",
    ),
    (
        &["pod-ip-missing-client"],
        "A namespace without an address of its own has nothing to send from: the kernel refuses, or \
         takes an address that answers do not come back to.",
    ),
    (
        &["route-wrong-nexthop", "route-wrong-dev"],
        "A route names a next hop, or a link, where the destination is not: whoever is asked for \
         there does not answer, and the sender is told \"host unreachable\" after three seconds.",
    ),
    (
        &["neigh-stale-permanent"],
        "A permanent neighbour entry is never asked about again: when its link-layer address is \
         wrong, frames go to nobody for ever.",
    ),
    (
        &["pod-arp-ignore", "calico-proxy-arp-off", "arp-filter", "arp-off", "proxy-arp-no-route"],
        "Whoever is asked by ARP answers only where its settings (arp_ignore, arp_filter, proxy_arp, \
         the device's NOARP) and its routes allow it. Without an answer nothing is sent.",
    ),
    (
        &["vxlan-neigh-missing"],
        "An overlay does not ask for neighbours: its agent enters the link-layer address of each \
         other node's tunnel end. Without that entry the packet waits and is dropped.",
    ),
    (
        &["duplicate-address"],
        "Addresses have to be unique on a link: of two devices with the same IP address the one that \
         answers first is reached, until the other one does.",
    ),
    (
        &["duplicate-mac"],
        "A bridge sends frames for a link-layer address to the port where it was seen last. Where \
         two devices have the same, it moves between their ports, and each gets the other's frames.",
    ),
    (
        &["frame-for-nobody"],
        "A host takes only frames that are for its own link-layer address: one that is addressed to \
         another is seen by captures and dropped as OTHERHOST.",
    ),
    (
        &[
            "vxlan-broken",
            "vxlan-fdb-missing",
            "vxlan-fdb-wrong",
            "vxlan-mac-changed",
            "vxlan-vni-mismatch",
            "vxlan-port-mismatch",
            "vxlan-link-down-remote",
            "vxlan-local-ip-gone",
            "vxlan-missing-remote",
        ],
        "An overlay packs pod packets into UDP between the nodes' own addresses. Both ends have to \
         agree on the network identifier (VNI) and the port, the sender needs a forwarding entry \
         that maps the remote tunnel's MAC to the remote node, and the receiving device has to be \
         up, since its UDP socket exists only then. The pods see none of the errors: what goes wrong \
         outside the tunnel ends on the nodes.",
    ),
    (
        &["mtu-mismatch", "underlay-mtu-blackhole", "pmtud-blackhole", "vxlan-fragments-dropped"],
        "A packet longer than a device's MTU is dropped when it may not be fragmented. Path MTU \
         discovery repairs that only while the ICMP error (\"fragmentation needed\") is sent and \
         gets back to the sender: bridges and veth pairs send none, and firewalls drop it. Tunnel \
         packets are fragmented outside instead, and fragments are lost where anything on the way \
         drops them. Connections are made, small answers come, large ones hang.",
    ),
    (
        &["ipv6-disabled", "ipv6-mtu-too-small"],
        "IPv6 needs links of 1280 bytes, and is lost on a device where it is switched off, addresses \
         and routes with it.",
    ),
    (
        &["ipv6-address-unverified"],
        "A kernel uses an IPv6 address only after duplicate address detection: it asks the link for \
         the address, and whoever answers has it already. A bridge port in hairpin mode sends the \
         question back to the one who asks, who then takes itself for another.",
    ),
    (
        &["ndp-proxy-missing"],
        "An address that lies behind a router, but inside of the network that is on the link, is \
         asked for on the link: the router answers in its place only where proxy_ndp is on and an \
         entry names the address.",
    ),
    (
        &["mld-group-missing"],
        "IPv6 asks for a neighbour at a multicast group made of its address. A bridge that snoops \
         sends the question only where somebody was heard to join that group (MLD): who keeps its \
         reports to itself is never asked.",
    ),
];
