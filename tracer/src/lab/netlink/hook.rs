//! BPF programs on a device. The device holds them, so that they outlive the process that put them
//! there, and nothing is pinned.

use std::os::fd::{AsRawFd, BorrowedFd};

use futures_util::{StreamExt, pin_mut};
use rtnetlink::LinkUnspec;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use super::Netlink;
use crate::lab::Error;

/// `XDP_FLAGS_SKB_MODE`, `XDP_FLAGS_DRV_MODE` of `linux/if_link.h`.
const XDP_SKB: u32 = 1 << 1;
const XDP_DRIVER: u32 = 1 << 2;
const ETH_P_ALL: u16 = 3;
const PRIORITY: u16 = 49152;

/// Where on a device a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    XdpGeneric,
    XdpDriver,
    /// As `XdpDriver`, with a program that lets everything pass.
    XdpPassing,
    TcIngress,
    TcEgress,
}

impl Hook {
    fn xdp_flags(self) -> Option<u32> {
        match self {
            Self::XdpGeneric => Some(XDP_SKB),
            Self::XdpDriver | Self::XdpPassing => Some(XDP_DRIVER),
            Self::TcIngress | Self::TcEgress => None,
        }
    }

    fn tc_parent(self) -> u16 {
        if self == Self::TcEgress { TcHandle::MIN_EGRESS } else { TcHandle::MIN_INGRESS }
    }
}

impl Netlink {
    /// Puts a program on a device.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that the device is not there.
    pub async fn attach(
        &self,
        dev: &str,
        hook: Hook,
        program: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let index = self.ifindex(dev).await?;
        let fd = program.as_raw_fd();
        match hook.xdp_flags() {
            Some(flags) => self.set_xdp(index, fd, flags).await,
            None => self.add_filter(index, hook, fd).await,
        }
        .map_err(self.failed(format!("attach a program to {dev}")))
    }

    /// Takes programs of that kind from a device; with tc, the `clsact` qdisc.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that the device is not there.
    pub async fn detach(&self, dev: &str, hook: Hook) -> Result<(), Error> {
        let index = self.ifindex(dev).await?;
        match hook.xdp_flags() {
            Some(flags) => self.set_xdp(index, -1, flags).await,
            None => {
                let message = clsact(index);
                self.request(RouteNetlinkMessage::DelQueueDiscipline(message), 0).await
            }
        }
        .map_err(self.failed(format!("detach the program from {dev}")))
    }

    async fn set_xdp(&self, index: u32, fd: i32, flags: u32) -> Result<(), rtnetlink::Error> {
        let xdp = LinkAttribute::Xdp(vec![LinkXdp::Fd(fd), LinkXdp::Flags(flags)]);
        let message = LinkUnspec::new_with_index(index).append_extra_attribute(xdp).build();
        self.handle.link().change(message).execute().await
    }

    async fn add_filter(&self, index: u32, hook: Hook, fd: i32) -> Result<(), rtnetlink::Error> {
        let create = NLM_F_CREATE | NLM_F_EXCL;
        let qdisc = RouteNetlinkMessage::NewQueueDiscipline(clsact(index));
        self.request(qdisc, create).await?;
        let mut filter = message(index, TcHandle { major: 0xffff, minor: hook.tc_parent() });
        filter.header.info = u32::from(TcHandle { major: PRIORITY, minor: ETH_P_ALL.to_be() });
        filter.attributes = vec![
            TcAttribute::Kind("bpf".to_owned()),
            TcAttribute::Options(vec![
                TcOption::Bpf(TcFilterBpfOption::ProgFd(fd.cast_unsigned())),
                TcOption::Bpf(TcFilterBpfOption::ProgName("drop".to_owned())),
                TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ];
        self.request(RouteNetlinkMessage::NewTrafficFilter(filter), create).await
    }

    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), rtnetlink::Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let answers = self.handle.clone().request(request)?;
        pin_mut!(answers);
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
        }
        Ok(())
    }
}

fn message(index: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = parent;
    message
}

/// The qdisc that holds the filters of both directions.
fn clsact(index: u32) -> TcMessage {
    let mut message = message(index, TcHandle::CLSACT);
    message.header.handle = TcHandle { major: 0xffff, minor: 0 };
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}
