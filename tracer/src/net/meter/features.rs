//! Offloads of devices, as `ethtool -k` shows them (`ETHTOOL_GFEATURES`).

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
/// `ETH_SS_FEATURES`.
const FEATURES: u32 = 4;
/// `ETH_GSTRING_LEN`.
const NAME: usize = 32;
/// More than any kernel has.
const MOST: usize = 256;

/// State of one offload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feature {
    /// It can be changed.
    pub is_changeable: bool,
    /// It was asked for.
    pub is_wanted: bool,
    /// It works.
    pub is_active: bool,
}

/// By the kernel's name (`tx-checksum-ip-generic`).
pub type Features = BTreeMap<String, Feature>;

/// Those of the calling thread's namespace, by interface index. Devices that cannot tell are left
/// out.
pub(super) fn features(devices: &BTreeMap<u32, String>) -> BTreeMap<u32, Features> {
    let Some(socket) = socket() else { return BTreeMap::new() };
    // The names are the same for all devices: the first that can tell them does.
    let Some(names) = devices.values().find_map(|dev| names(&socket, dev)) else {
        return BTreeMap::new();
    };
    let of = |(index, dev): (&u32, &String)| Some((*index, states(&socket, dev, &names)?));
    devices.iter().filter_map(of).collect()
}

fn socket() -> Option<OwnedFd> {
    // SAFETY: no pointers; the descriptor is owned from here on.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}

/// Asks the driver of `dev`; `words` holds the request and takes the answer.
fn ask(socket: &OwnedFd, dev: &str, words: &mut [u32]) -> Option<()> {
    // SAFETY: plain old data; zero is a value of every field.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = dev.as_bytes();
    if name.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: the request and the words outlive the call; each request says how much of them the
    // kernel may fill.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    (result == 0).then_some(())
}

fn names(socket: &OwnedFd, dev: &str) -> Option<Vec<String>> {
    // `struct ethtool_sset_info`: command, reserved, mask of 64 bits, one number for each bit set.
    let mut info = [ETHTOOL_GSSET_INFO, 0, 0, 0, 0];
    let mask = (1_u64 << FEATURES).to_ne_bytes();
    info[2] = u32::from_ne_bytes([mask[0], mask[1], mask[2], mask[3]]);
    info[3] = u32::from_ne_bytes([mask[4], mask[5], mask[6], mask[7]]);
    ask(socket, dev, &mut info)?;
    let count = (info[4] as usize).min(MOST);
    // `struct ethtool_gstrings`: command, set, length, strings. The kernel fills as many as it has.
    let mut words = vec![0; 3 + MOST * NAME / 4];
    (words[0], words[1], words[2]) = (ETHTOOL_GSTRINGS, FEATURES, info[4]);
    if count == 0 || info[4] as usize > MOST {
        return None;
    }
    ask(socket, dev, &mut words)?;
    let bytes: Vec<u8> = words[3..].iter().flat_map(|w| w.to_ne_bytes()).collect();
    let name = |bytes: &[u8]| {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    Some(bytes.chunks(NAME).take(count).map(name).collect())
}

fn states(socket: &OwnedFd, dev: &str, names: &[String]) -> Option<Features> {
    // `struct ethtool_gfeatures`: command, size, blocks of available, requested, active,
    // never changed.
    let blocks = names.len().div_ceil(32);
    let mut words = vec![0; 2 + blocks * 4];
    (words[0], words[1]) = (ETHTOOL_GFEATURES, blocks as u32);
    ask(socket, dev, &mut words)?;
    let has = |at: usize, field: usize| words[2 + at / 32 * 4 + field] >> (at % 32) & 1 == 1;
    let state = |(at, name): (usize, &String)| {
        let is_changeable = has(at, 0) && !has(at, 3);
        let feature = Feature { is_changeable, is_wanted: has(at, 1), is_active: has(at, 2) };
        (name.clone(), feature)
    };
    Some(names.iter().enumerate().filter(|(_, name)| !name.is_empty()).map(state).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_segments_late() {
        let found = features(&[(1, "lo".to_owned())].into());
        let lo = &found[&1];
        assert!(lo["tx-generic-segmentation"].is_active, "{lo:?}");
        assert!(!lo["tx-checksum-ip-generic"].is_changeable);
    }

    #[test]
    fn a_device_that_is_not_there_is_left_out() {
        assert!(features(&[(9, "no-such-dev".to_owned())].into()).is_empty());
    }
}
