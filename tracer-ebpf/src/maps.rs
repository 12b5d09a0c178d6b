//! Every map, in one place.

use core::cell::UnsafeCell;

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use tracer_common::event::Tracked;
use tracer_common::filter::miss;
use tracer_common::{Control, FlowKey, NearMiss, Portal, Stat};

use crate::packet::Packet;

/// Events to the user side; its size is set at load.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// Followed skbs by address. Preallocated: programs on the hot path must not allocate, and
/// kernels before 6.1 refuse it there.
#[map]
pub(crate) static TRACKED: HashMap<u64, Tracked> = HashMap::with_max_entries(65_536, 0);

/// Tuples that followed packets were translated to, in both directions.
#[map]
static FLOWS: LruHashMap<FlowKey, u64> = LruHashMap::with_max_entries(16_384, 0);

/// Namespaces in which a packet may be met first.
#[map]
pub(crate) static SCOPE_NETNS: HashMap<u32, u8> = HashMap::with_max_entries(4_096, 0);

/// Devices (namespace inode in the high half, index in the low) on which it may be met first.
#[map]
pub(crate) static SCOPE_DEV: HashMap<u64, u8> = HashMap::with_max_entries(4_096, 0);

/// Where the Service is reached that the filter asks for; its size is set at load.
#[map]
pub(crate) static PORTALS: HashMap<Portal, u8> = HashMap::with_max_entries(1, 0);

/// Addresses and ports by which the filter's destination, or its namespaces, are reached from
/// elsewhere; with neither port nor protocol, the whole address. Its size is set at load.
#[map]
pub(crate) static ENTRANCES: HashMap<Portal, u8> = HashMap::with_max_entries(1, 0);

/// How often each term kept a packet from matching, by the bits of
/// [`tracer_common::filter::miss`].
#[map]
pub(crate) static MISSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(miss::COUNT, 0);

/// Packets that a single term kept from matching, and how many of them.
#[map]
pub(crate) static NEAR: LruHashMap<NearMiss, u64> = LruHashMap::with_max_entries(1_024, 0);

/// skbs that the kernel made of followed ones, by address: whose they are, should they become
/// journeys of their own. A note goes when that happens and when the skb is freed, as its address
/// may soon hold a packet that only looks the same: a question that is asked again.
#[map]
static ORIGINS: LruHashMap<u64, Origin> = LruHashMap::with_max_entries(8_192, 0);

/// Calls under way, by the stack pointer at their entry: the arguments of a function are gone
/// when a kretprobe runs. Calls nest (softirqs), so one place a CPU would not do.
#[map]
pub(crate) static CALLS: LruHashMap<u64, Call> = LruHashMap::with_max_entries(1_024, 0);

/// Counters, see [`Stat`].
#[map]
pub(crate) static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Stat::COUNT, 0);

/// What only the user side writes, see [`Control`].
#[map]
pub(crate) static CONTROL: Array<u64> = Array::with_max_entries(Control::COUNT, 0);

/// The packet that this CPU works on, for probes that are not handed the skb.
#[map]
pub(crate) static CURRENT: PerCpuArray<Current> = PerCpuArray::with_max_entries(1, 0);

/// Room for packets that are being read: [`SLOTS`] places a CPU, each the claimant's alone (see
/// [`Slot::claim`]); its size is set at load.
///
/// In a map rather than on the stack: it would fill the stack, and the verifier would follow
/// every value that every path leaves there, which takes it a second a program. No per-CPU map:
/// some kernels let a program change its CPU, and it must find its place again.
#[map]
pub(crate) static SCRATCH: Array<Room> = Array::with_max_entries(SLOTS, 0);

/// A slot of [`SCRATCH`].
#[repr(C)]
pub(crate) struct Room {
    /// The packet as it was read.
    pub(crate) packet: Packet,
    /// Where it lies: its network header. Handed over here because a function that is verified by
    /// itself takes numbers only, and a number is what comes back from a map.
    pub(crate) l3: u64,
    /// The slot's own number.
    pub(crate) number: u64,
    /// How many programs hold the slot or are trying to.
    claims: u64,
    /// Journeys begun in this slot: with its number, their identity.
    pub(crate) journeys: u64,
}

/// A slot as the programs hold it: no reference, since the reading function finds it by itself
/// and writes to it behind their back.
#[derive(Clone, Copy)]
pub(crate) struct Slot(*mut Room);

impl Slot {
    /// A slot that nobody else holds, `None` when all of this CPU are in use. To be released.
    #[inline(always)]
    pub(crate) fn claim() -> Option<Self> {
        let number = claim_slot();
        let slot = Self::of(number)?;
        slot.room().number = number;
        Some(slot)
    }

    /// Lets others have it.
    #[inline(always)]
    pub(crate) fn release(self) {
        add(&raw mut self.room().claims, NEGATIVE_ONE);
    }

    /// The slot of this number, which the caller holds.
    #[inline(always)]
    pub(crate) fn of(number: u64) -> Option<Self> {
        SCRATCH.get_ptr_mut(number as u32).map(Self)
    }

    /// Its content, for as long as nobody reads a packet.
    #[inline(always)]
    pub(crate) fn room(self) -> &'static mut Room {
        // SAFETY: a map value, and the slot is claimed: no other program writes to it meanwhile.
        unsafe { &mut *self.0 }
    }

    /// The packet that was read last.
    #[inline(always)]
    pub(crate) fn packet(self) -> &'static Packet {
        &self.room().packet
    }
}

/// Claims a slot of this CPU; gives its number, or one that no slot has.
///
/// Programs nest (task, softirq, hardirq, NMI), and where the kernel is preemptible they also end
/// in any order. Whoever adds the first claim holds the slot; whoever finds another's takes its own
/// back and tries the next one. Two that meet may both go on to the next: neither gets it wrongly.
/// Kernels before 5.12 have no atomic operation that gives the old value, and none is needed.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_slot() -> u64 {
    // SAFETY: a helper without arguments.
    let first = unsafe { bpf_get_smp_processor_id() } * SLOTS;
    // No loop: kernels before 5.11 take one for endless where its last instruction is no jump, and
    // how the compiler lays it out is not known.
    macro_rules! claim_one_of {
        ($($n:literal)+) => { $(
            if is_claimed(first + $n) {
                return u64::from(first + $n);
            }
        )+ };
    }
    claim_one_of!(0 1 2 3 4 5 6 7);
    u64::from(u32::MAX)
}

/// Tries to claim a slot.
#[inline(always)]
fn is_claimed(number: u32) -> bool {
    let Some(room) = SCRATCH.get_ptr_mut(number) else { return false };
    // SAFETY: a map value; its counter is only ever added to, and read at once.
    let claims = unsafe { &raw mut (*room).claims };
    add(claims, 1);
    // SAFETY: as above.
    if unsafe { claims.read_volatile() } == 1 {
        return true;
    }
    add(claims, NEGATIVE_ONE);
    false
}

const _: () = assert!(SLOTS == 8);
/// Slots of a CPU: more than programs nest, as some may be preempted while they hold one.
const SLOTS: u32 = tracer_common::SCRATCH_SLOTS;
/// What takes one away when it is added.
const NEGATIVE_ONE: u64 = u64::MAX;

/// Where the call chain of a drop is read into.
#[map]
pub(crate) static STACK: PerCpuArray<Stack> = PerCpuArray::with_max_entries(1, 0);

/// Frames of [`Stack`]: those of the tracing itself come first.
pub(crate) const STACK_FRAMES: usize = 16;

/// See [`STACK`].
#[repr(C)]
pub(crate) struct Stack {
    /// Return addresses, innermost first.
    pub(crate) frames: [u64; STACK_FRAMES],
    /// Whose they are.
    pub(crate) token: u64,
}

/// Events that did not fit, by journey, until the user side has read them.
#[map]
pub(crate) static LOST: HashMap<u64, u64> = HashMap::with_max_entries(65_536, 0);

/// Admission window: start of the second in the first slot, admissions in it in the second.
#[map]
pub(crate) static RATE: Array<u64> = Array::with_max_entries(2, 0);

/// This CPU's notes.
#[inline(always)]
pub(crate) fn current() -> Option<&'static mut Current> {
    // SAFETY: a slot of this CPU.
    CURRENT.get_ptr_mut(0).map(|c| unsafe { &mut *c })
}

/// See [`CURRENT`].
#[repr(C)]
pub(crate) struct Current {
    /// Address of the skb, 0 when none is being worked on.
    pub(crate) skb: u64,
    /// Its addresses as last seen.
    pub(crate) saddr: [u32; 4],
    /// See `saddr`.
    pub(crate) daddr: [u32; 4],
    /// 1 while route look-ups on this CPU are this packet's.
    pub(crate) routes: u64,
    /// Address of the skb that was routed last: it looks for its neighbour next. 0 when none.
    ///
    /// The kernel reports on the neighbour only after the question, and even the answer and the
    /// transmission, may have run in softirqs in between, so this outlives all of that.
    pub(crate) resolving: u64,
    /// Namespace in which it did.
    pub(crate) resolving_netns: u64,
    /// Device that it is about to leave by.
    pub(crate) resolving_ifindex: u64,
    /// Address of the skb that was cloned last, see `identity::hand_over`.
    pub(crate) cloned: u64,
    /// Address of its clone.
    pub(crate) clone: u64,
    /// Address of the skb that did not match last, while that is told.
    pub(crate) missed: u64,
}

/// See [`note_copy`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Origin {
    /// Journey of the original.
    pub(crate) parent: u64,
    /// Fingerprint of the original: the copy's address may hold another packet by now.
    pub(crate) fingerprint: u64,
    /// See [`tracer_common::event::origin`].
    pub(crate) kind: u64,
}

/// See [`CALLS`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Call {
    /// Arguments of the function, in its own order.
    pub(crate) args: [u64; 3],
}

/// Followed skbs that are under way, plus those that were aged out.
static LIVE: Shared = Shared::new();
/// Entries of [`TRACKED`], settled ones among them, plus those that were aged out.
static HELD: Shared = Shared::new();
/// Set once a translated tuple has been learned.
static LEARNED: Shared = Shared::new();
/// Set once a copy has been noted.
static COPIED: Shared = Shared::new();

/// A number that all CPUs see. `core`'s atomics do not compile for a BPF target without
/// compare-and-swap (before v3); plain loads and the atomic addition are all that is needed. Each has
/// a cache line of its own: what is only read is not to wait for what others write.
#[repr(align(64))]
struct Shared(UnsafeCell<u64>);

// SAFETY: every access is one volatile load or store, or one atomic addition.
unsafe impl Sync for Shared {}

impl Shared {
    const fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: an aligned static.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn store(&self, n: u64) {
        // SAFETY: an aligned static.
        unsafe { self.0.get().write_volatile(n) }
    }

    #[inline(always)]
    fn add(&self, n: u64) {
        add(self.0.get(), n);
    }
}

/// Adds atomically.
#[inline(always)]
fn add(to: *mut u64, n: u64) {
    // SAFETY: adds to an aligned static or map value.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) to, in(reg) n);
    }
}

/// Whether any skb is being followed.
#[inline(always)]
pub(crate) fn any_live() -> bool {
    live() != 0
}

/// A word of [`CONTROL`].
#[inline(always)]
pub(crate) fn control(word: Control) -> u64 {
    CONTROL.get(word as u32).copied().unwrap_or(0)
}

/// Whether what does not match is to be told.
#[inline(always)]
pub(crate) fn is_curious() -> bool {
    control(Control::Curious) != 0
}

/// How many skbs are being followed.
#[inline(always)]
pub(crate) fn live() -> u64 {
    let live = LIVE.load();
    if live == 0 {
        return 0;
    }
    live.wrapping_sub(control(Control::Aged))
}

/// One skb more is under way.
#[inline(always)]
pub(crate) fn live_add() {
    LIVE.add(1);
}

/// One skb less is under way.
#[inline(always)]
pub(crate) fn live_sub() {
    LIVE.add(u64::MAX);
}

/// Whether [`TRACKED`] holds any entry: those that settled are no longer under way, yet the skb
/// may still end.
#[inline(always)]
pub(crate) fn any_held() -> bool {
    let held = HELD.load();
    held != 0 && held != control(Control::AgedHeld)
}

/// One entry more is held.
#[inline(always)]
pub(crate) fn held_add() {
    HELD.add(1);
}

/// One entry less is held.
#[inline(always)]
pub(crate) fn held_sub() {
    HELD.add(u64::MAX);
}

/// Whether a translated tuple has been learned.
#[inline(always)]
pub(crate) fn any_learned() -> bool {
    LEARNED.load() != 0
}

/// Whether this tuple has been learned.
#[inline(always)]
pub(crate) fn has_learned(key: &FlowKey) -> bool {
    // SAFETY: the value is not looked at.
    unsafe { FLOWS.get(key) }.is_some()
}

/// Learns both directions of a translated tuple.
#[inline(always)]
pub(crate) fn learn(key: &FlowKey) {
    if has_learned(key) {
        return;
    }
    // A full LRU map evicts; nothing to be done about an error here.
    let _ = FLOWS.insert(key, 1, 0);
    let _ = FLOWS.insert(key.reversed(), 1, 0);
    LEARNED.store(1);
}

/// Notes whose copy an skb is.
#[inline(always)]
pub(crate) fn note_copy(address: u64, origin: Origin) {
    // A full LRU map evicts.
    let _ = ORIGINS.insert(address, origin, 0);
    COPIED.store(1);
}

/// Takes the note on an skb away, and returns it.
#[inline(always)]
pub(crate) fn take_origin(address: u64) -> Option<Origin> {
    if COPIED.load() == 0 {
        return None;
    }
    // SAFETY: the value is copied at once.
    let origin = unsafe { ORIGINS.get(address) }.copied()?;
    let _ = ORIGINS.remove(address);
    Some(origin)
}

/// Notes that a journey lacks an event. The count comes last: who sees it finds the note.
#[inline(always)]
pub(crate) fn lose(journey: u64) {
    if let Some(lost) = LOST.get_ptr_mut(journey) {
        // SAFETY: a map value; one journey's events are written one after the other.
        unsafe { *lost += 1 };
    } else if LOST.insert(journey, 1, 0).is_err() {
        count(Stat::LostUnknown);
    }
    count(Stat::LostEvents);
}

/// Counts.
#[inline(always)]
pub(crate) fn count(stat: Stat) {
    if let Some(slot) = STATS.get_ptr_mut(stat as u32) {
        // Atomically: another program may count in the midst of it.
        add(slot, 1);
    }
}
