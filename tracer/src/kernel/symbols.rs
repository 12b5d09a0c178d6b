//! Kernel addresses to function names, from `/proc/kallsyms`.

use std::fs;

/// Functions by address.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Symbols {
    /// Sorted; the name is a range of `names`.
    entries: Vec<(u64, u32, u32)>,
    names: String,
}

impl Symbols {
    /// Reads the running kernel's symbols. Without the privilege to see addresses (or with
    /// `kernel.kptr_restrict=2`) the table is empty, and addresses stay numbers.
    #[must_use]
    pub fn read() -> Self {
        fs::read_to_string("/proc/kallsyms").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// Parses lines of `ADDRESS TYPE NAME [MODULE]`, text symbols only.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut symbols = Self::default();
        for line in text.lines() {
            let mut fields = line.split_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if !matches!(kind, "t" | "T" | "w" | "W") {
                continue;
            }
            let Ok(address) = u64::from_str_radix(address, 16) else { continue };
            let start = symbols.names.len();
            symbols.names.push_str(name);
            if let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(symbols.names.len()))
                && address != 0
            {
                symbols.entries.push((address, start, end));
            }
        }
        symbols.entries.sort_unstable();
        symbols
    }

    /// The function that `address` lies in, without compiler suffixes (`.isra.0`, `.cold`).
    #[must_use]
    pub fn function(&self, address: u64) -> Option<&str> {
        let after = self.entries.partition_point(|e| e.0 <= address);
        let (_, start, end) = *self.entries.get(after.checked_sub(1)?)?;
        let name = self.names.get(start as usize..end as usize)?;
        Some(name.split('.').next().unwrap_or(name))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_inside_a_function_has_its_name() {
        let s = Symbols::parse(
            "ffffffff81000100 t ip_rcv_finish_core.isra.0\n\
             ffffffff81000000 T ip_rcv\n\
             ffffffff82000000 D some_data\n\
             ffffffff81000200 t nft_do_chain [nf_tables]\n",
        );
        assert_eq!(s.function(0xffff_ffff_8100_0010), Some("ip_rcv"));
        assert_eq!(s.function(0xffff_ffff_8100_0100), Some("ip_rcv_finish_core"));
        assert_eq!(s.function(0xffff_ffff_8100_0fff), Some("nft_do_chain"));
        assert_eq!(s.function(0x10), None);
    }

    #[test]
    fn hidden_addresses_give_no_names() {
        assert!(Symbols::parse("0000000000000000 T ip_rcv\n").is_empty());
    }
}
