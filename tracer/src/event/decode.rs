//! Bytes of the ring buffer into an [`Event`].

use tracer_common::{
    Detail, Probe,
    event::{DETAIL_LEN, EventHeader, LONG_LEN, SHORT_LEN},
};

use super::{Connection, CtInfo, Event, Packet};

/// Why bytes are not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Neither a short nor a long event.
    #[error("event of {0} bytes: expected {SHORT_LEN} or {LONG_LEN}")]
    Length(usize),
    /// Written by a newer kernel side than this program knows.
    #[error("event of unknown probe {0}")]
    Probe(u8),
}

impl Event {
    /// Decodes one record. A record may be padded behind the event, as ring buffers do to eight
    /// bytes; both lengths are multiples of that, so only the exact ones are taken.
    ///
    /// # Errors
    /// The length is wrong or the probe is unknown.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() != SHORT_LEN && bytes.len() != LONG_LEN {
            return Err(DecodeError::Length(bytes.len()));
        }
        let header = read_header(bytes)?;
        let probe = Probe::from_u8(header.probe).ok_or(DecodeError::Probe(header.probe))?;
        let at = size_of::<EventHeader>();
        let mut detail = [0; DETAIL_LEN];
        detail.copy_from_slice(&bytes[at..at + DETAIL_LEN]);
        let protocol = u16::from_be_bytes(header.protocol_be);
        Ok(Self {
            ktime_ns: header.ktime_ns,
            journey: header.journey,
            head: header.head,
            seq: header.seq,
            lost: header.lost,
            cpu: header.cpu,
            probe,
            flags: header.flags,
            tunnels: header.tunnels,
            netns: header.netns,
            ifindex: header.ifindex,
            len: header.len,
            mark: header.mark,
            protocol,
            gso_size: header.gso_size,
            pkt_type: header.pkt_type,
            ct: CtInfo::from_wire(header.ct),
            connection: Connection::from_wire(&header),
            detail: Detail::read(probe, &detail),
            packet: Packet::parse(protocol, &bytes[SHORT_LEN..], header.tunnels),
        })
    }
}

/// Copies the header out of `bytes`, which need not be aligned.
fn read_header(bytes: &[u8]) -> Result<EventHeader, DecodeError> {
    if bytes.len() < size_of::<EventHeader>() {
        return Err(DecodeError::Length(bytes.len()));
    }
    // SAFETY: `EventHeader` is plain old data (integers and byte arrays, every bit pattern valid)
    // and `bytes` was checked to be at least as long; the read needs no alignment.
    Ok(unsafe { bytes.as_ptr().cast::<EventHeader>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_lengths_are_refused() {
        for len in [0, 1, SHORT_LEN - 1, SHORT_LEN + 1, LONG_LEN - 1, LONG_LEN + 8] {
            assert_eq!(Event::decode(&vec![0; len]).err(), Some(DecodeError::Length(len)));
        }
    }

    #[test]
    fn unknown_probes_are_refused() {
        assert_eq!(Event::decode(&[0; SHORT_LEN]).err(), Some(DecodeError::Probe(0)));
    }

    /// A small generator (xorshift64*), so that a failing input can be found again.
    struct Random(u64);

    impl Random {
        fn byte(&mut self) -> u8 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        }
    }

    #[test]
    fn no_bytes_make_decode_panic() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut decoded = 0;
        for round in 0..60_000_u32 {
            let len = if round % 4 == 0 { SHORT_LEN } else { LONG_LEN };
            let mut bytes: Vec<u8> = (0..len).map(|_| random.byte()).collect();
            bytes[std::mem::offset_of!(EventHeader, probe)] = (round % 27) as u8;
            shape(&mut bytes, round, &mut random);
            decoded += u32::from(Event::decode(&bytes).is_ok());
        }
        assert!(decoded > 50_000, "only {decoded} of the inputs got as far as the parser");
    }

    /// Makes the random packet look like IPv4, IPv6 or ARP with every kind of rest.
    fn shape(bytes: &mut [u8], round: u32, random: &mut Random) {
        let Some(snap) = bytes.get_mut(SHORT_LEN..).filter(|s| !s.is_empty()) else { return };
        match round % 3 {
            0 => {
                snap[0] = 0x40 | (random.byte() & 15);
                snap[9] = [1, 6, 17, 58, 132][usize::from(random.byte() % 5)];
                snap[22..24].copy_from_slice(&8472_u16.to_be_bytes());
            }
            1 => {
                snap[0] = 0x60;
                snap[6] = [0, 44, 43, 60, 6, 17, 58][usize::from(random.byte() % 7)];
            }
            _ => snap[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, random.byte() & 3]),
        }
    }
}
