//! Type information that is made here, whole and damaged.

use super::*;

/// Type information under construction.
#[derive(Default)]
struct Made {
    types: Vec<u8>,
    names: Vec<u8>,
}

impl Made {
    fn new() -> Self {
        Self { types: Vec::new(), names: vec![0] }
    }

    fn name(&mut self, name: &str) -> u32 {
        let at = u32::try_from(self.names.len()).unwrap();
        self.names.extend(name.as_bytes());
        self.names.push(0);
        if name.is_empty() { 0 } else { at }
    }

    fn add(&mut self, name: &str, kind: u32, count: u32, refers: u32, rest: &[u32]) {
        let name = self.name(name);
        for word in [name, kind << 24 | count, refers].iter().chain(rest) {
            self.types.extend(word.to_ne_bytes());
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let (types, names) = (self.types.len() as u32, self.names.len() as u32);
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, types, types, names] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(&self.types);
        bytes.extend(&self.names);
        bytes
    }
}

const WIDTHS: u32 = 1 << 7;

/// 1 int; 2 a union in 3, nameless there; 4 typedef of 3; 5 holds that; 6 to 8 a tracepoint;
/// 9 a function; 10 an enumeration.
fn kernel() -> Made {
    let mut made = Made::new();
    made.add("int", 1, 0, 4, &[32]);
    let [a, flag, ns] = ["a", "flag", "ns"].map(|name| made.name(name));
    made.add("", 5, 1, 4, &[a, 1, 0]);
    made.add("inner", 4 | WIDTHS, 2, 8, &[flag, 1, 1 << 24 | 3, 0, 2, 32]);
    made.add("inner_t", 8, 0, 3, &[]);
    made.add("outer", 4, 1, 16, &[ns, 4, 64]);
    let [data, skb] = ["__data", "skb"].map(|name| made.name(name));
    made.add("", 13, 2, 0, &[data, 1, skb, 1]);
    made.add("", 2, 0, 6, &[]);
    made.add("btf_trace_kfree_skb", 8, 0, 7, &[]);
    made.add("ip_rcv", 12, 1, 6, &[]);
    let [one, two] = ["SKB_DROP_REASON_ONE", "SKB_DROP_REASON_TWO"].map(|name| made.name(name));
    made.add("skb_drop_reason", 6, 2, 4, &[one, 1, two, 2]);
    made
}

/// For `crate::fuzz`.
pub(crate) fn sample() -> Vec<u8> {
    kernel().bytes()
}

#[test]
fn everything_that_is_asked_is_found() {
    let btf = KernelBtf::parse(kernel().bytes(), None).unwrap();
    let place = |bits, width| Some(Place { bits, width });
    assert_eq!(btf.member("inner", "flag"), place(3, Some(1)));
    assert_eq!(btf.member("inner", "a"), place(32, None));
    assert_eq!(btf.member("outer", "ns.a"), place(96, None));
    assert_eq!(btf.member("outer", "a"), None);
    assert_eq!((btf.size("outer"), btf.has_structure("inner_t")), (Some(16), false));
    assert_eq!((btf.function("ip_rcv"), btf.function("kfree_skb")), (Some(9), None));
    assert_eq!(btf.first_argument("ip_rcv").as_deref(), Some("__data"));
    assert_eq!(
        (btf.tracepoint("kfree_skb"), btf.tracepoint_arguments("kfree_skb")),
        (Some(8), Some(1))
    );
    let reasons = btf.enumeration("skb_drop_reason", "SKB_DROP_REASON_");
    assert_eq!(reasons, BTreeMap::from([(1, "ONE".to_owned()), (2, "TWO".to_owned())]));
}

#[test]
fn a_module_stands_on_the_kernel() {
    let kernel = KernelBtf::parse(kernel().bytes(), None).unwrap();
    let mut made = Made::default();
    // Names go on where the kernel's end.
    let shift = u32::try_from(self::kernel().names.len()).unwrap();
    let own = made.name("br_port") + shift;
    let [ns, function] = ["port", "br_forward"].map(|name| made.name(name) + shift);
    for word in [own, 4 << 24 | 1, 16, ns, 3, 8, function, 12 << 24, 6] {
        made.types.extend(u32::to_ne_bytes(word));
    }
    let module = KernelBtf::parse(made.bytes(), Some(&kernel)).unwrap();
    assert_eq!(module.member("br_port", "port.a"), Some(Place { bits: 40, width: None }));
    assert_eq!((module.function("br_forward"), module.function("ip_rcv")), (Some(12), Some(9)));
    assert_eq!(module.first_argument("br_forward").as_deref(), Some("__data"));
    assert_eq!(kernel.function("br_forward"), None);
}

#[test]
fn what_refers_to_itself_has_an_end() {
    let mut made = Made::new();
    let x = made.name("x");
    // A typedef of itself; a structure that is nameless in itself, twice.
    made.add("self", 8, 0, 1, &[]);
    made.add("loop", 4, 3, 8, &[0, 2, 0, 0, 2, 8, x, 1, 16]);
    let btf = KernelBtf::parse(made.bytes(), None).unwrap();
    assert_eq!(btf.member("loop", "nothing"), None);
    assert_eq!(btf.member("loop", "x.y"), None);
}

#[test]
fn damage_is_told_or_harmless() {
    let whole = kernel().bytes();
    let ask = |bytes: Vec<u8>| {
        let Ok(btf) = KernelBtf::parse(bytes, None) else { return };
        let _ = (btf.member("outer", "ns.a"), btf.member("inner", "flag"), btf.size("outer"));
        let _ = (btf.first_argument("ip_rcv"), btf.tracepoint_arguments("kfree_skb"));
        let _ = btf.enumeration("skb_drop_reason", "");
    };
    for end in 0..whole.len() {
        assert!(KernelBtf::parse(whole[..end].to_vec(), None).is_err(), "{end}");
    }
    for at in 0..whole.len() {
        for byte in [0, 1, 7, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            ask(bytes);
        }
    }
    let mut unknown = Made::new();
    unknown.add("new", 31, 0, 0, &[]);
    let why = KernelBtf::parse(unknown.bytes(), None).unwrap_err();
    assert!(why.contains("kind 31"), "{why}");
}

#[test]
fn the_running_kernels_is_read() {
    let btf = KernelBtf::read(Path::new(VMLINUX)).unwrap();
    assert_eq!(btf.member("net_device", "nd_net.net").map(|p| p.bits % 64), Some(0));
    assert!(btf.function("ip_rcv").is_some() && btf.tracepoint("kfree_skb").is_some());
    assert!(btf.tracepoint_arguments("kfree_skb").is_some_and(|n| n >= 2));
    assert_eq!(btf.member("sk_buff", "cloned").and_then(|p| p.width), Some(1));
}
