//! Network interfaces and the virtual functions behind them, through rtnetlink (rtnetlink(7);
//! `include/uapi/linux/if_link.h`). One request, one answer: there is nothing to wait for, so
//! the crates' synchronous socket does.

use std::io;

use devices::net::Mac;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage, LinkVfInfo, VfInfo, VfInfoLinkState,
    VfInfoMac, VfInfoRate, VfInfoSpoofCheck, VfInfoTrust, VfLinkState, VfVlan, VfVlanInfo,
    VlanProtocol,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::vf::{Rate, VfLink, VfSetting, VfSettings, Vlan};

/// An interface.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// It is administratively up.
    pub up: bool,
    /// It has carrier.
    pub carrier: bool,
    /// What is set for each VF of the device below it, by number.
    pub vfs: Vec<VfSettings>,
}

/// Asks for the interface of this name.
pub(super) fn link(interface: &str) -> io::Result<Link> {
    let mut message = about(interface);
    let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::Vf]);
    message.attributes.push(mask);
    match request(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST)? {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(answer)) => Ok(read(&answer)),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(unexpected(&other)),
    }
}

/// Takes an interface up or down.
pub(super) fn set_up(interface: &str, up: bool) -> io::Result<()> {
    let mut message = about(interface);
    message.header.change_mask = LinkFlags::Up;
    if up {
        message.header.flags = LinkFlags::Up;
    }
    set(message)
}

/// Sets something of VF `number`.
pub(super) fn set_vf(interface: &str, number: u32, setting: VfSetting) -> io::Result<()> {
    let mut message = about(interface);
    let info = LinkVfInfo(vec![vf_info(number, setting)]);
    message
        .attributes
        .push(LinkAttribute::VfInfoList(vec![info]));
    set(message)
}

fn about(interface: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(interface.to_owned())];
    message
}

fn set(message: LinkMessage) -> io::Result<()> {
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    match request(RouteNetlinkMessage::SetLink(message), flags)? {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(unexpected(&other)),
    }
}

type Payload = NetlinkPayload<RouteNetlinkMessage>;

fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<Payload> {
    let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
    packet.header.flags = flags;
    packet.header.sequence_number = 1;
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::deserialize(&answer).map_err(io::Error::other)?;
    Ok(answer.payload)
}

fn unexpected(payload: &Payload) -> io::Error {
    let kind = payload.message_type();
    io::Error::other(format!("the kernel answered with a message of type {kind}"))
}

fn read(answer: &LinkMessage) -> Link {
    let infos = answer.attributes.iter().find_map(|a| match a {
        LinkAttribute::VfInfoList(list) => Some(list),
        _ => None,
    });
    let vfs = infos.into_iter().flatten().map(read_vf);
    Link {
        up: answer.header.flags.contains(LinkFlags::Up),
        carrier: answer.header.flags.contains(LinkFlags::LowerUp),
        vfs: vfs.collect(),
    }
}

fn read_vf(LinkVfInfo(infos): &LinkVfInfo) -> VfSettings {
    let mut vf = VfSettings::default();
    for info in infos {
        match info {
            VfInfo::Mac(info) => {
                let [a, b, c, d, e, f, ..] = info.mac;
                vf.mac = Some(Mac([a, b, c, d, e, f]));
            }
            VfInfo::VlanList(list) => vf.vlan = list.iter().find_map(read_vlan),
            VfInfo::Trust(info) => vf.trust = Some(info.enabled),
            VfInfo::SpoofCheck(info) => vf.spoofcheck = Some(info.enabled),
            VfInfo::Rate(info) => {
                vf.rate = Some(Rate {
                    min: info.min_tx_rate,
                    max: info.max_tx_rate,
                });
            }
            VfInfo::LinkState(info) => {
                vf.link = match info.state {
                    VfLinkState::Auto => Some(VfLink::Auto),
                    VfLinkState::Enable => Some(VfLink::Enable),
                    VfLinkState::Disable => Some(VfLink::Disable),
                    _ => None,
                };
            }
            _ => {}
        }
    }
    vf
}

fn read_vlan(vlan: &VfVlan) -> Option<Vlan> {
    match vlan {
        VfVlan::Info(info) => Some(Vlan {
            id: info.vlan_id as u16,
            qos: info.qos as u8,
            service: info.protocol == VlanProtocol::Ieee8021Ad,
        }),
        _ => None,
    }
}

fn vf_info(number: u32, setting: VfSetting) -> VfInfo {
    match setting {
        VfSetting::Mac(mac) => VfInfo::Mac(VfInfoMac::new(number, &mac.0)),
        VfSetting::Vlan(vlan) => {
            let protocol = match vlan.service {
                true => VlanProtocol::Ieee8021Ad,
                false => VlanProtocol::Ieee8021Q,
            };
            let (id, qos) = (vlan.id.into(), vlan.qos.into());
            let info = VfVlanInfo::new(number, id, qos, protocol);
            VfInfo::VlanList(vec![VfVlan::Info(info)])
        }
        VfSetting::Trust(on) => VfInfo::Trust(VfInfoTrust::new(number, on)),
        VfSetting::SpoofCheck(on) => VfInfo::SpoofCheck(VfInfoSpoofCheck::new(number, on)),
        VfSetting::Rate(rate) => VfInfo::Rate(VfInfoRate::new(number, rate.min, rate.max)),
        VfSetting::Link(link) => {
            let state = match link {
                VfLink::Auto => VfLinkState::Auto,
                VfLink::Enable => VfLinkState::Enable,
                VfLink::Disable => VfLinkState::Disable,
            };
            VfInfo::LinkState(VfInfoLinkState::new(number, state))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_reads_back() {
        let settings = VfSettings {
            mac: Some(Mac([2, 0, 0, 0x5c, 0, 1])),
            vlan: Some(Vlan {
                id: 100,
                qos: 3,
                service: true,
            }),
            trust: Some(true),
            spoofcheck: Some(false),
            rate: Some(Rate { min: 1, max: 200 }),
            link: Some(VfLink::Disable),
        };
        let infos = settings.each().map(|setting| vf_info(5, setting)).collect();
        assert_eq!(read_vf(&LinkVfInfo(infos)), settings);
    }

    /// The loopback interface is everywhere, and reading needs no privilege.
    #[test]
    fn this_kernel_answers() {
        let lo = link("lo").unwrap();
        assert!(lo.vfs.is_empty());
        let nowhere = link("nosuchlink0").unwrap_err();
        assert_eq!(nowhere.raw_os_error(), Some(libc::ENODEV));
        if !nix::unistd::geteuid().is_root() {
            let refused = set_up("lo", true).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        }
    }
}
