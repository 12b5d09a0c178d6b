//! nfnetlink messages: headers and attributes as bytes. Integers of nftables are big-endian, those
//! of netlink's own headers in host order.

/// `NFNL_SUBSYS_NFTABLES`
pub(super) const SUBSYS_NFTABLES: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`
pub(super) const BATCH_BEGIN: u16 = 0x10;
/// `NFNL_MSG_BATCH_END`
pub(super) const BATCH_END: u16 = 0x11;

const HEADER_LEN: usize = 16;
const GENMSG_LEN: usize = 4;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = (1 << 14) - 1;

/// A sequence of messages under construction.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Where the last message begins.
    last: usize,
}

impl Batch {
    /// Adds a message with the attributes that `fill` writes.
    pub(super) fn message(
        &mut self,
        kind: u16,
        flags: i32,
        family: i32,
        resource: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        let out = &mut self.bytes;
        let flags = u16::try_from(libc::NLM_F_REQUEST | flags).unwrap_or(0);
        out.extend(0_u32.to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(flags.to_ne_bytes());
        out.extend([0; 8]);
        out.extend([u8::try_from(family).unwrap_or(0), 0]);
        out.extend(resource.to_be_bytes());
        fill(&mut Attributes(out));
        let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&len.to_ne_bytes());
        self.last = start;
    }

    /// Asks for an answer to the last message, whatever comes of it.
    pub(super) fn acknowledge_last(&mut self) {
        let Some(flags) = self.bytes.get_mut(self.last + 6..self.last + 8) else { return };
        let asked =
            u16::from_ne_bytes([flags[0], flags[1]]) | u16::try_from(libc::NLM_F_ACK).unwrap_or(0);
        flags.copy_from_slice(&asked.to_ne_bytes());
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The attributes of a message or of a nest.
#[derive(Debug)]
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.put(kind, |out| out.extend(value));
    }

    /// With the terminating zero that the kernel asks for.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.put(kind, |out| {
            out.extend(value.as_bytes());
            out.push(0);
        });
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.put(kind | NLA_F_NESTED, |out| fill(&mut Attributes(out)));
    }

    fn put(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        fill(self.0);
        let len = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// A received message: type, address family, attributes.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) family: u8,
    /// Behind the netlink header; an error's code and more for `NLMSG_ERROR`.
    pub(super) body: &'a [u8],
}

impl Message<'_> {
    /// The attributes, for a message that is nfnetlink's.
    pub(super) fn attributes(&self) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.body.get(GENMSG_LEN..).unwrap_or(&[]))
    }

    /// The error that `NLMSG_ERROR` tells, 0 for an acknowledgement.
    pub(super) fn error(&self) -> Option<i32> {
        (i32::from(self.kind) == libc::NLMSG_ERROR)
            .then(|| self.body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b)))
    }
}

/// The messages of a datagram.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let whole = bytes.get(..len).filter(|m| m.len() >= HEADER_LEN)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        let body = &whole[HEADER_LEN..];
        Some(Message {
            kind: u16::from_ne_bytes([whole[4], whole[5]]),
            family: body.first().copied().unwrap_or(0),
            body,
        })
    })
}

/// Type and value of each attribute.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let whole = bytes.get(..len).filter(|a| a.len() >= 4)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((u16::from_ne_bytes([whole[2], whole[3]]) & NLA_TYPE_MASK, &whole[4..]))
    })
}

/// A big-endian 32-bit number; 0 when the bytes are not one.
pub(super) fn number(value: &[u8]) -> u32 {
    value.try_into().map_or(0, u32::from_be_bytes)
}

/// Text up to its terminating zero.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut batch = Batch::default();
        batch.message(BATCH_BEGIN, 0, 0, SUBSYS_NFTABLES, |_| {});
        batch.message(0xa06, libc::NLM_F_CREATE, 1, 0, |a| {
            a.text(1, "raw");
            a.nest(4, |a| a.number(1, 7));
        });
        let all: Vec<_> = messages(batch.bytes()).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[1].kind, all[1].family), (0xa06, 1));
        let mut parts = all[1].attributes();
        assert_eq!(parts.next().map(|(kind, v)| (kind, text(v))), Some((1, "raw".to_owned())));
        let (kind, nest) = parts.next().unwrap();
        assert_eq!(kind, 4);
        assert_eq!(attributes(nest).map(|(k, v)| (k, number(v))).collect::<Vec<_>>(), [(1, 7)]);
        assert!(parts.next().is_none());
    }

    #[test]
    fn damaged_bytes_end_the_reading() {
        assert_eq!(messages(&[200, 0, 0, 0, 1]).count(), 0);
        assert_eq!(attributes(&[2, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[8, 0, 1, 0, 9]).count(), 0);
        assert_eq!(number(&[1, 2]), 0);
    }
}
