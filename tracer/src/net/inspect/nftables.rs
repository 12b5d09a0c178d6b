//! What nf_tables itself tells of its tables, without the words of their rules: cheap however many
//! rules there are, and enough to know which tool has to be asked.

use std::collections::HashMap;
use std::io;

use super::wire::{Netlink, attributes_after, be32_at, text, u8_at};

/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10 << 8;
/// `NFT_MSG_GETTABLE`.
const GET_TABLE: u16 = NFTABLES | 1;
/// `NFT_MSG_GETRULE`.
const GET_RULE: u16 = NFTABLES | 7;
/// `struct nfgenmsg`: family, version, resource.
const HEADER: usize = 4;
/// `NFTA_TABLE_NAME`, and `NFTA_RULE_TABLE` as well.
const TABLE: u16 = 1;
/// `NFTA_RULE_CHAIN`.
const CHAIN: u16 = 2;
/// `NFTA_RULE_HANDLE`.
const HANDLE: u16 = 3;

/// `NFPROTO_*` by nft's words.
const FAMILIES: [(u8, &str); 6] =
    [(1, "inet"), (2, "ip"), (3, "arp"), (5, "netdev"), (7, "bridge"), (10, "ip6")];

/// Family (`ip`, `inet`, …) and name of the tables of the calling thread's namespace, in the
/// kernel's order.
///
/// # Errors
///
/// `EPERM` without `CAP_NET_ADMIN`; `EINVAL` where the kernel has no nf_tables.
pub(crate) fn tables_here() -> io::Result<Vec<(&'static str, String)>> {
    let answer = Netlink::open(libc::NETLINK_NETFILTER)?.dump(GET_TABLE, &[0; HEADER])?;
    let table = |body: &[u8]| {
        let family = u8_at(body, 0)?;
        let (_, family) = *FAMILIES.iter().find(|(number, _)| *number == family)?;
        let name = attributes_after(body, HEADER).find(|(kind, _)| *kind == TABLE)?.1;
        Some((family, text(name)))
    };
    Ok(answer.messages().filter_map(|(_, body)| table(body)).collect())
}

/// The handles of the rules of a table of the calling thread's namespace, by chain, in order.
///
/// # Errors
///
/// As [`tables_here`].
pub(crate) fn handles_here(family: &str, table: &str) -> io::Result<HashMap<String, Vec<u64>>> {
    let number = FAMILIES.iter().find(|(_, name)| *name == family).map_or(0, |(number, _)| *number);
    let mut request = vec![number, 0, 0, 0];
    let length = u16::try_from(4 + table.len() + 1).map_err(io::Error::other)?;
    request.extend(length.to_ne_bytes());
    request.extend(TABLE.to_ne_bytes());
    request.extend(table.as_bytes());
    request.push(0);
    request.resize(request.len().next_multiple_of(4), 0);
    let answer = Netlink::open(libc::NETLINK_NETFILTER)?.dump(GET_RULE, &request)?;
    let mut handles: HashMap<String, Vec<u64>> = HashMap::new();
    for (_, body) in answer.messages() {
        let attribute = |wanted: u16| {
            attributes_after(body, HEADER).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
        };
        // Old kernels ignore the wish for one table.
        if attribute(TABLE).map(text).as_deref() != Some(table) {
            continue;
        }
        if let (Some(chain), Some(handle)) = (attribute(CHAIN), attribute(HANDLE).and_then(be64)) {
            handles.entry(text(chain)).or_default().push(handle);
        }
    }
    Ok(handles)
}

fn be64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from(be32_at(bytes, 0)?) << 32 | u64::from(be32_at(bytes, 4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_not_there_has_no_rules() {
        assert!(tables_here().is_ok());
        assert_eq!(handles_here("ip", "no-such-table").unwrap_or_default(), HashMap::new());
    }
}
