//! The state of a bridge port. It is set by the bridge's own message (`bridge link set`): a change
//! to the device as such is followed by an event on which the bridge starts a disabled port again.

use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkProtoInfoBridge};

use super::Netlink;
use crate::lab::Error;

/// `IFLA_BRPORT_STATE` of `linux/if_link.h`; `BR_STATE_…` of `linux/if_bridge.h`.
const PORT_STATE: u16 = 1;
const DISABLED: u8 = 0;
const FORWARDING: u8 = 3;

impl Netlink {
    pub(super) async fn set_port_state(
        &self,
        dev: &str,
        index: u32,
        is_forwarding: bool,
    ) -> Result<(), Error> {
        let state = if is_forwarding { FORWARDING } else { DISABLED };
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.header.index = index;
        let state = LinkProtoInfoBridge::Other(DefaultNla::new(PORT_STATE, vec![state]));
        message.attributes.push(LinkAttribute::ProtoInfoBridge(vec![state]));
        let set = self.handle.link().set(message).execute().await;
        set.map_err(self.failed(format!("set the state of bridge port {dev}")))
    }
}
