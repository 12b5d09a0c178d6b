//! The only reader of kernel structures.
//!
//! A [`Skb`] reads either directly, through a pointer that the verifier knows by its BTF type
//! (`tp_btf`, netfilter), or by `bpf_probe_read_kernel`, where the program has only the address
//! (tc and cgroup programs: their context *is* the skb at run time).

use core::mem::MaybeUninit;
use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use tracer_common::event::{CT_ATTACHED, CT_READ, EventHeader};
use tracer_common::offsets::ABSENT;
use tracer_common::{Control, Stat};

use crate::config::offset;
use crate::maps::{Slot, control, count};
use crate::packet::{self, L4_WORDS, Packet, Transport, WORDS};

/// A pointer into the kernel; `DIRECT` when the verifier knows its type.
#[derive(Clone, Copy)]
pub(crate) struct Kptr<const DIRECT: bool>(*const u8);

impl<const DIRECT: bool> Kptr<DIRECT> {
    #[inline(always)]
    pub(crate) fn new(ptr: *const u8) -> Self {
        Self(ptr)
    }

    #[inline(always)]
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The address, as a number.
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    /// The address of the member at `offset`.
    #[inline(always)]
    pub(crate) fn at(self, offset: u16) -> *const u8 {
        self.0.wrapping_add(offset as usize)
    }

    /// Loads the member at `offset`.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, offset: u16) -> T {
        // SAFETY: see `load_at`; offsets come from this kernel's BTF.
        unsafe {
            let at = self.0.add(offset as usize);
            if DIRECT { read_volatile(at.cast()) } else { probe_read(at) }
        }
    }

    /// Loads the pointer at `offset`.
    #[inline(always)]
    pub(crate) fn follow(self, offset: u16) -> Self {
        Self(self.load(offset))
    }
}

/// Reads kernel memory at any address; zero when it cannot be read.
///
/// # Safety
///
/// `T` must be valid for any bytes.
#[inline(always)]
pub(crate) unsafe fn probe_read<T: Copy>(at: *const u8) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes the whole value, zeroes on failure.
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, at.cast());
        value.assume_init()
    }
}

/// A packet buffer.
#[derive(Clone, Copy)]
pub(crate) struct Skb<const DIRECT: bool> {
    ptr: Kptr<DIRECT>,
}

impl<const DIRECT: bool> Skb<DIRECT> {
    #[inline(always)]
    pub(crate) fn new(ptr: *const u8) -> Self {
        Self { ptr: Kptr::new(ptr) }
    }

    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.ptr.address()
    }

    #[inline(always)]
    pub(crate) fn head(self) -> u64 {
        self.ptr.load(offset!(skb_head))
    }

    #[inline(always)]
    pub(crate) fn protocol(self) -> u16 {
        self.ptr.load(offset!(skb_protocol))
    }

    #[inline(always)]
    pub(crate) fn dev(self) -> Kptr<DIRECT> {
        self.ptr.follow(offset!(skb_dev))
    }

    /// The member at `offset`.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, offset: u16) -> T {
        self.ptr.load(offset)
    }

    /// The pointer at `offset`.
    #[inline(always)]
    pub(crate) fn follow(self, offset: u16) -> Kptr<DIRECT> {
        self.ptr.follow(offset)
    }

    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        self.ptr.load(offset!(skb_len))
    }

    /// Where `skb->data` points: the network header while the packet is being received.
    #[inline(always)]
    pub(crate) fn data(self) -> *const u8 {
        self.ptr.load::<u64>(offset!(skb_data)) as *const u8
    }

    /// The network header as the stack has set it.
    #[inline(always)]
    pub(crate) fn network(self) -> *const u8 {
        (self.head() + u64::from(self.ptr.load::<u16>(offset!(skb_network_header)))) as *const u8
    }

    /// The network header and its protocol, behind the VLAN tags that are in the frame itself (a
    /// device without offload, the second tag of two). What is a tag's own header to the stack on
    /// one way is the packet's on another, so the tags are walked from the link-layer header on.
    #[inline(always)]
    pub(crate) fn behind_tags(self, l3: *const u8) -> (*const u8, u16) {
        let protocol = self.protocol();
        if !packet::is_tag(protocol) {
            return (l3, protocol);
        }
        let at = self.ptr.load::<u16>(offset!(skb_mac_header));
        if at == u16::MAX {
            return (l3, protocol);
        }
        let (l3, protocol) = behind_ethernet(self.head() + u64::from(at));
        (l3 as *const u8, protocol)
    }

    /// The first twelve bytes from the link-layer header on; zeroes when there is none.
    #[inline(always)]
    pub(crate) fn macs(self) -> [u32; 3] {
        let at = self.ptr.load::<u16>(offset!(skb_mac_header));
        if at == u16::MAX {
            return [0; 3];
        }
        // SAFETY: integers; zeroes when they cannot be read.
        unsafe { probe_read((self.head() + u64::from(at)) as *const u8) }
    }

    /// The network header inside a tunnel, when the stack has set one.
    #[inline(always)]
    pub(crate) fn inner_network(self) -> Option<*const u8> {
        let byte = self.ptr.load::<u8>(offset!(skb_encapsulation));
        if byte & offset!(skb_encapsulation_mask) as u8 == 0 {
            return None;
        }
        let inner = self.ptr.load::<u16>(offset!(skb_inner_network_header));
        Some((self.head() + u64::from(inner)) as *const u8)
    }

    #[inline(always)]
    pub(crate) fn is_cloned(self) -> bool {
        self.ptr.load::<u8>(offset!(skb_cloned)) & offset!(skb_cloned_mask) as u8 != 0
    }

    #[inline(always)]
    pub(crate) fn is_linear(self) -> bool {
        self.ptr.load::<u32>(offset!(skb_len) + 4) == 0
    }

    /// `skb->_skb_refdst` without its flag bit.
    #[inline(always)]
    pub(crate) fn dst(self) -> u64 {
        self.ptr.load::<u64>(offset!(skb_refdst)) & !1
    }

    /// `skb_shinfo(skb)->gso_size`.
    #[inline(always)]
    fn gso_size(self) -> u16 {
        let end = u64::from(self.ptr.load::<u32>(offset!(skb_end)));
        let at = self.head() + end + u64::from(offset!(shinfo_gso_size));
        // SAFETY: an integer.
        unsafe { probe_read(at as *const u8) }
    }

    /// Fills what conntrack keeps of the packet's connection; zeroes when there is none.
    #[inline(always)]
    pub(crate) fn describe_connection(self, header: &mut EventHeader) {
        (header.ct_mark, header.ct_status, header.ct_zone) = (0, 0, 0);
        let status = control(Control::CtStatus);
        if offset!(skb_nfct) == ABSENT || status == 0 {
            return;
        }
        // The low bits are the packet's own state, see `describe`.
        let connection = self.ptr.load::<u64>(offset!(skb_nfct)) & !7;
        if connection == 0 {
            return;
        }
        let place = |offset: u64| connection.wrapping_add(offset);
        header.ct |= CT_READ;
        // SAFETY: integers; zeroes when they cannot be read.
        unsafe {
            header.ct_status = probe_read::<u64>(place(status) as *const u8) as u16;
            let (mark, zone) = (control(Control::CtMark), control(Control::CtZone));
            if mark != 0 {
                header.ct_mark = probe_read(place(mark) as *const u8);
            }
            if zone != 0 {
                header.ct_zone = probe_read(place(zone) as *const u8);
            }
        }
    }

    /// Fills what the header of an event says of the skb itself.
    #[inline(always)]
    pub(crate) fn describe(self, header: &mut EventHeader) {
        header.head = self.head();
        header.len = self.ptr.load(offset!(skb_len));
        header.mark = self.ptr.load(offset!(skb_mark));
        header.protocol_be = self.protocol().to_ne_bytes();
        header.pkt_type = self.ptr.load::<u8>(offset!(skb_pkt_type)) & 7;
        header.gso_size = self.gso_size();
        header.ct = 0;
        if offset!(skb_nfct) != ABSENT {
            let nfct = self.ptr.load::<u64>(offset!(skb_nfct));
            if nfct != 0 {
                header.ct = CT_ATTACHED | (nfct & 7) as u8;
            }
        }
    }

    /// Reads tuple and fingerprint of the packet at `l3` into `slot`; false when that cannot be
    /// done.
    #[inline(always)]
    pub(crate) fn packet(self, slot: Slot, l3: *const u8, protocol: u16) -> bool {
        slot.room().l3 = l3 as u64;
        if read_packet(slot.room().number, u64::from(protocol)) == 0 {
            return false;
        }
        if !self.is_linear() {
            slot.room().packet.payload = 0;
        }
        true
    }
}

/// See [`Skb::packet`]; 0 when it cannot be read.
///
/// Exported, and with numbers as arguments: such a function ("global" to the kernel) is verified
/// once a program (since 5.6) and not with everything that its callers know, which took nine
/// tenths of a program's verification.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_packet(slot: u64, protocol: u64) -> u64 {
    let Some(slot) = Slot::of(slot) else { return 0 };
    let room = slot.room();
    let l3 = room.l3 as *const u8;
    let mut words = Words([0; WORDS]);
    // SAFETY: the helper writes all of it. Beyond the packet lies the rest of the skb's buffer
    // and its shared info, so the read stays inside one allocation.
    let rc = unsafe {
        bpf_probe_read_kernel((&raw mut words).cast(), size_of::<Words>() as u32, l3.cast())
    };
    if rc != 0 {
        count(Stat::FailedReads);
        return 0;
    }
    let w = &words.0;
    let protocol = protocol as u16;
    let packet = &mut room.packet;
    *packet = Packet::default();
    let at = if protocol == packet::ETH_P_IP {
        let found = packet::ipv4_transport(w);
        packet::ipv4(packet, w, &transport(w, l3, found.at, 5));
        found.at
    } else if protocol == packet::ETH_P_IPV6 {
        let found = ipv6_transport(w, l3);
        packet::ipv6(packet, w, &found, &transport(w, l3, found.at, 10));
        found.at
    } else if protocol == packet::ETH_P_ARP {
        packet::arp(packet, w);
        0
    } else {
        return 0;
    };
    if packet.is_error != 0 {
        // What it speaks of lies behind the eight bytes of the ICMP header.
        read_quoted(packet, &mut words, l3.wrapping_add(at as usize + 8), protocol);
    }
    1
}

/// The network header behind an Ethernet header and at most two VLAN tags, and its protocol.
#[inline(always)]
pub(crate) fn behind_ethernet(mac: u64) -> (u64, u16) {
    // SAFETY: integers; zeroes, no protocol at all, when they cannot be read.
    let [first, _, second, _, third]: [u16; 5] = unsafe { probe_read((mac + 12) as *const u8) };
    if !packet::is_tag(first) {
        (mac + 14, first)
    } else if !packet::is_tag(second) {
        (mac + 18, second)
    } else {
        (mac + 22, third)
    }
}

/// Reads the packet that an ICMP error speaks of.
#[inline(always)]
fn read_quoted(packet: &mut Packet, words: &mut Words, l3: *const u8, protocol: u16) {
    // SAFETY: as in `read_packet`; zeroes when it cannot be read.
    unsafe {
        bpf_probe_read_kernel((&raw mut *words).cast(), size_of::<Words>() as u32, l3.cast());
    }
    let w = &words.0;
    let is_v6 = protocol == packet::ETH_P_IPV6;
    let found = if is_v6 { ipv6_transport(w, l3) } else { packet::ipv4_transport(w) };
    // SAFETY: integers; zeroes when they cannot be read.
    let l4 = unsafe { probe_read(l3.wrapping_add(found.at as usize)) };
    packet::quoted(packet, is_v6, w, &found, l4);
}

#[inline(always)]
fn ipv6_transport(w: &[u32; WORDS], l3: *const u8) -> Transport {
    packet::ipv6_transport((w[1] >> 16) as u8, |at| {
        // SAFETY: integers; zeroes when they cannot be read.
        unsafe { probe_read(l3.wrapping_add(at as usize)) }
    })
}

/// Packet bytes as words, aligned so that copying them takes eight bytes at a time.
#[repr(C, align(8))]
struct Words([u32; WORDS]);

/// The first words of the transport header, which lies `at` bytes behind the network header:
/// usually at the word `plain`.
#[inline(always)]
fn transport(w: &[u32; WORDS], l3: *const u8, at: u32, plain: usize) -> [u32; L4_WORDS] {
    if at as usize == plain * 4 {
        return [w[plain], w[plain + 1], w[plain + 2], w[plain + 3], w[plain + 4], w[plain + 5]];
    }
    if at == 0 {
        return [0; L4_WORDS];
    }
    // SAFETY: integers; an address that cannot be read gives zeroes.
    unsafe { probe_read(l3.wrapping_add(at as usize)) }
}

/// Namespace of a device.
#[inline(always)]
pub(crate) fn netns_of<const DIRECT: bool>(dev: Kptr<DIRECT>) -> u32 {
    inum(dev.follow(offset!(dev_net)))
}

/// Inode number of a `struct net`.
#[inline(always)]
pub(crate) fn inum<const DIRECT: bool>(net: Kptr<DIRECT>) -> u32 {
    net.load(offset!(net_inum))
}

/// Namespaces are numbered from here (`PROC_DYNAMIC_FIRST`, and a few before it); upper halves of
/// kernel addresses are beyond.
const NETNS_INUMS: core::ops::Range<u32> = 0xefff_ff00..0xffff_0000;

/// Whether this may be the number of a namespace. What a socket keeps in a tree (TCP's segments out
/// of order, `tcp_data_queue_ofo`) has a branch of it where its device was (`rbnode` of `struct
/// sk_buff`), which leads to anything.
#[inline(always)]
pub(crate) fn is_netns(inum: u32) -> bool {
    NETNS_INUMS.contains(&inum)
}

/// Index of a device, 0 for none.
#[inline(always)]
pub(crate) fn ifindex<const DIRECT: bool>(dev: Kptr<DIRECT>) -> u32 {
    if dev.is_null() { 0 } else { dev.load(offset!(dev_ifindex)) }
}
