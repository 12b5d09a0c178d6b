//! ICMP echo packets, for all who ping.

use std::net::IpAddr;

/// Bytes of the header.
pub const HEADER: usize = 8;

/// An echo request with `data` bytes behind its header; the identifier and sequence number in host
/// order. The ICMPv6 checksum is left to the kernel.
#[must_use]
pub fn request(to: IpAddr, id: u16, seq: u16, data: usize) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let ([id_hi, id_lo], [seq_hi, seq_lo]) = (id.to_be_bytes(), seq.to_be_bytes());
    let mut packet = vec![kind, 0, 0, 0, id_hi, id_lo, seq_hi, seq_lo];
    packet.resize(HEADER + data, b'p');
    // The kernel fills in the ICMPv6 checksum, which covers addresses that it chooses.
    if to.is_ipv4() {
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

/// RFC 1071.
#[must_use]
pub fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
    let sum = sum as u16;
    !sum
}

/// Whether what a raw socket delivered is the answer to `id` from the family of `to`: an IPv4 socket
/// delivers the IP header, an IPv6 one does not.
#[must_use]
pub fn is_reply(to: IpAddr, id: u16, packet: &[u8]) -> bool {
    let (kind, header) = match to {
        IpAddr::V4(_) => (0, packet.first().map_or(0, |b| usize::from(b & 0xf) * 4)),
        IpAddr::V6(_) => (129, 0),
    };
    let Some(icmp) = packet.get(header..).filter(|icmp| icmp.len() >= HEADER) else {
        return false;
    };
    icmp[0] == kind && icmp[4..6] == id.to_be_bytes()
}
