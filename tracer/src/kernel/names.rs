//! What the kernel calls its drop reasons and functions.

use std::collections::BTreeMap;

use super::btf::KernelBtf;
use super::symbols::Symbols;

/// Subsystem part of a drop reason (`SKB_DROP_REASON_SUBSYS_MASK`, since 6.4).
const SUBSYSTEM_SHIFT: u32 = 16;

/// Names for numbers.
#[derive(Debug, Default)]
pub struct KernelNames {
    reasons: BTreeMap<u32, String>,
    symbols: Symbols,
}

impl KernelNames {
    /// The names of the running kernel.
    #[must_use]
    pub fn read(btf: &KernelBtf) -> Self {
        let mut reasons = btf.enumeration("skb_drop_reason", "SKB_DROP_REASON_");
        // Only on kernels with the feature does the enumeration exist; never a copied list.
        reasons.retain(|_, name| !name.starts_with("SUBSYS_MASK") && name != "MAX");
        if let Some(consumed) = reasons.values_mut().find(|n| *n == "SKB_CONSUMED") {
            "CONSUMED".clone_into(consumed);
        }
        Self { reasons, symbols: Symbols::read() }
    }

    /// Names made by hand, for tests and replays.
    #[must_use]
    pub fn new(reasons: BTreeMap<u32, String>, symbols: Symbols) -> Self {
        Self { reasons, symbols }
    }

    /// `enum skb_drop_reason` without its prefix; a subsystem's own reason is `subsystem N/M`.
    #[must_use]
    pub fn drop_reason(&self, reason: u32) -> String {
        match self.reasons.get(&reason) {
            Some(name) => name.clone(),
            None if self.reasons.is_empty() => "NOT_SPECIFIED".to_owned(),
            None => {
                format!("SUBSYSTEM_{}/{}", reason >> SUBSYSTEM_SHIFT, reason & 0xffff)
            }
        }
    }

    /// The function that `address` lies in.
    #[must_use]
    pub fn function(&self, address: u64) -> Option<&str> {
        self.symbols.function(address)
    }
}
