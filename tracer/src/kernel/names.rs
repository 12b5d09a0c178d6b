//! What the kernel calls its drop reasons and functions.

use std::collections::BTreeMap;

use super::btf::KernelBtf;
use super::symbols::Symbols;
use crate::journey::Names;

/// Subsystem part of a drop reason (`SKB_DROP_REASON_SUBSYS_MASK`, since 6.4).
const SUBSYSTEM_SHIFT: u32 = 16;

/// Names for numbers.
#[derive(Debug, Default)]
pub struct KernelNames {
    reasons: BTreeMap<u32, String>,
    symbols: Symbols,
}

impl KernelNames {
    /// The names of the running kernel, whose symbols are `symbols`.
    #[must_use]
    pub fn of(btf: &KernelBtf, symbols: Symbols) -> Self {
        let mut reasons = btf.enumeration("skb_drop_reason", "SKB_DROP_REASON_");
        // Only on kernels with the feature does the enumeration exist; never a copied list.
        reasons.retain(|_, name| !name.starts_with("SUBSYS_MASK") && name != "MAX");
        Self { reasons, symbols }
    }

    /// Names made by hand, for tests and replays.
    #[must_use]
    pub fn new(reasons: BTreeMap<u32, String>, symbols: Symbols) -> Self {
        Self { reasons, symbols }
    }
}

impl Names for KernelNames {
    /// A subsystem's own reason has no name in the kernel's enumeration.
    fn drop_reason(&self, reason: u32) -> Option<String> {
        match self.reasons.get(&reason) {
            Some(name) => Some(name.clone()),
            None if self.reasons.is_empty() => None,
            None => Some(format!("SUBSYSTEM_{}/{}", reason >> SUBSYSTEM_SHIFT, reason & 0xffff)),
        }
    }

    fn gives(&self, reason: &str) -> bool {
        self.reasons.values().any(|name| name == reason)
    }

    fn symbol(&self, address: u64) -> Option<String> {
        self.symbols.function(address).map(str::to_owned)
    }
}
