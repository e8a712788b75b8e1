//! Names and addresses that hold in every emulated host: where its devices are, and who is who on its networks.

/// Memory of the emulated host.
pub const HOST_MEMORY_MIB: u32 = 4096;

/// The SR-IOV NIC's physical function.
pub const PHYSICAL_FUNCTION: &str = "0000:01:00.0";
/// Its two virtual functions.
pub const VIRTUAL_FUNCTIONS: [&str; 2] = ["0000:01:10.0", "0000:01:10.2"];
/// All the virtual functions the NIC can have, for the tests that want every one.
pub const ALL_VIRTUAL_FUNCTIONS: [&str; 7] = [
    "0000:01:10.0",
    "0000:01:10.2",
    "0000:01:10.4",
    "0000:01:10.6",
    "0000:01:11.0",
    "0000:01:11.2",
    "0000:01:11.4",
];
/// The MAC addresses the host gives virtual functions.
pub const VIRTUAL_FUNCTION_MACS: [&str; 7] = [
    "02:00:00:5c:00:10",
    "02:00:00:5c:00:11",
    "02:00:00:5c:00:12",
    "02:00:00:5c:00:13",
    "02:00:00:5c:00:14",
    "02:00:00:5c:00:15",
    "02:00:00:5c:00:16",
];
/// The NVMe controller.
pub const NVME: &str = "0000:02:00.0";
/// Bytes on the NVMe controller's only namespace.
pub const NVME_BYTES: u64 = 64 << 20;
/// The second NIC, an 82574L.
pub const E1000E: &str = "0000:03:00.0";
/// The USB controller, with a disk plugged in.
pub const XHCI: &str = "0000:04:00.0";
/// Bytes on the USB disk.
pub const USB_DISK_BYTES: u64 = 64 << 20;
/// The display adapter, a framebuffer and nothing else.
pub const BOCHS_DISPLAY: &str = "0000:05:00.0";
/// Two 82574Ls that are functions of one device.
pub const TWINS: [&str; 2] = ["0000:06:00.0", "0000:06:00.1"];
/// The user networks on their wires; the first is as [`E1000E`]'s.
pub const TWIN_NETWORKS: [&str; 2] = ["10.0.2.0/24", "10.0.3.0/24"];
/// Who answers pings on them.
pub const TWIN_PEERS: [&str; 2] = [E1000E_PEER, "10.0.3.2"];
/// What a guest that owns [`TWINS`] calls itself on them.
pub const TWIN_GUEST_ADDRESSES: [&str; 2] = [E1000E_GUEST_ADDRESS, "10.0.3.15"];
/// A virtio NIC with address translation services (ATS), which the host's own IOMMU does not use.
pub const VIRTIO_NIC: &str = "0000:07:00.0";

/// The host's address on the network its NIC's functions share.
pub const PF_ADDRESS: &str = "10.10.0.1";
/// The TAP device guests' emulated NICs are plugged into.
pub const TAP: &str = "tap0";
/// The host's address on it.
pub const TAP_ADDRESS: &str = "10.20.0.1";
/// The host's address towards the world (there is none, but passt wants a default route).
pub const UPLINK_ADDRESS: &str = "10.30.0.2";
/// The router that is not there.
pub const UPLINK_ROUTER: &str = "10.30.0.1";
/// The guest's address on the network its virtual function is on.
pub const VF_GUEST_ADDRESS: &str = "10.10.0.2";
/// The guest's address on the TAP.
pub const TAP_GUEST_ADDRESS: &str = "10.20.0.2";
/// Who answers pings on the wire of [`E1000E`]: QEMU's user network.
pub const E1000E_PEER: &str = "10.0.2.2";
/// What a guest that owns [`E1000E`] calls itself.
pub const E1000E_GUEST_ADDRESS: &str = "10.0.2.15";
/// Who answers pings on the wire of [`PHYSICAL_FUNCTION`], the same on another user network.
pub const PF_PEER: &str = E1000E_PEER;
/// What a guest that owns [`PHYSICAL_FUNCTION`] calls itself.
pub const PF_GUEST_ADDRESS: &str = E1000E_GUEST_ADDRESS;
/// Who answers pings on the wire of [`VIRTIO_NIC`], the same on yet another user network.
pub const VIRTIO_NIC_PEER: &str = E1000E_PEER;
/// What a guest that owns [`VIRTIO_NIC`] calls itself.
pub const VIRTIO_NIC_GUEST_ADDRESS: &str = E1000E_GUEST_ADDRESS;
