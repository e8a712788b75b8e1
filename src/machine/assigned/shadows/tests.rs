use std::io;
use std::sync::OnceLock;

use devices::vfio::Candidate;
use iommu::host::MapError;
use iommu::vtd::{VtdConfig, VtdSink, offset};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::memory::HugePages;

const RAM: u64 = 4 << 20;
const ROOT: u64 = 0x1000;
const CONTEXTS: u64 = 0x2000;
const DOMAINS: u64 = 0x10000;
const TE: u32 = 1 << 31;
const SRTP: u32 = 1 << 30;

/// What is mapped: length and guest-physical address by I/O virtual address.
#[derive(Default)]
struct Host {
    ram: Mutex<usize>,
    runs: Mutex<BTreeMap<u64, (u64, u64)>>,
    full: Mutex<bool>,
    memory: OnceLock<Arc<GuestRam>>,
    /// What was at [`STATUS`] when something was unmapped.
    waits: Mutex<Vec<u32>>,
}

impl HostMapper for Host {
    // SAFETY: nothing is reached through it.
    unsafe fn map(&self, iova: u64, host: *mut u8, len: u64, _: bool) -> Result<(), MapError> {
        if *self.full.lock().unwrap() {
            return Err(MapError {
                operation: "map",
                iova,
                len,
                source: io::ErrorKind::OutOfMemory.into(),
            });
        }
        let gpa = host as u64 - *self.ram.lock().unwrap() as u64;
        let before = self.runs.lock().unwrap().insert(iova, (len, gpa));
        assert_eq!(before, None, "mapped twice");
        Ok(())
    }

    fn unmap(&self, iova: u64, len: u64) -> Result<(), MapError> {
        if let Some(memory) = self.memory.get() {
            let status = memory.read_obj(GuestAddress(STATUS)).unwrap();
            self.waits.lock().unwrap().push(status);
        }
        let removed = self.runs.lock().unwrap().remove(&iova);
        assert_eq!(removed.map(|(len, _)| len), Some(len), "not whole");
        Ok(())
    }
}

/// Has spaces follow, as the board does.
struct Ears(Arc<Followers>);

impl VtdSink for Ears {
    fn translations_changed(&self, change: TranslationChange) {
        self.0.follow(change);
    }
}

struct Board {
    ram: Arc<GuestRam>,
    vtd: Arc<Vtd>,
    followers: Arc<Followers>,
}

impl Board {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(device_tlb: bool) -> Self {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]);
        let ram = Arc::new(ram.unwrap());
        let followers = Arc::<Followers>::default();
        let config = VtdConfig {
            caching_mode: true,
            device_tlb,
            ..VtdConfig::BASIC
        };
        let ears = Arc::new(Ears(followers.clone()));
        let vtd = Arc::new(Vtd::new(config, ram.clone(), ears));
        Self {
            ram,
            vtd,
            followers,
        }
    }

    fn space(&self) -> (Arc<Space>, Arc<Host>) {
        let host = Arc::<Host>::default();
        *host.ram.lock().unwrap() = self.ram.get_host_address(GuestAddress(0)).unwrap() as usize;
        host.memory.set(self.ram.clone()).unwrap();
        let space = Space::new("nic", &self.vtd, &self.ram, host.clone());
        (space, host)
    }

    fn behind(&self) -> Behind {
        Behind {
            vtd: self.vtd.clone(),
            followers: self.followers.clone(),
            drain: Arc::default(),
        }
    }

    fn poke(&self, at: u64, value: u64) {
        self.ram.write_obj(value, GuestAddress(at)).unwrap();
    }

    /// A function of bus 1 in a domain that has the page at 0x5000 for it at `iova`.
    fn domain(&self, function: u8, domain: u64, iova: u64) {
        let table = |level: u64| DOMAINS + domain * 0x4000 + (4 - level) * 0x1000;
        for level in 1..=4 {
            let next = if level == 1 { 0x5000 } else { table(level - 1) };
            let index = iova >> (12 + 9 * (level - 1)) & 0x1ff;
            self.poke(table(level) + 8 * index, next | 3);
        }
        let context = CONTEXTS + 16 * u64::from(function);
        self.poke(ROOT + 16, CONTEXTS | 1);
        self.poke(context + 8, domain << 8 | 2);
        self.poke(context, table(4) | 1);
    }

    fn turn_on(&self) {
        self.vtd.write(offset::RTADDR, 8, ROOT);
        self.vtd.write(offset::GCMD, 4, SRTP.into());
        self.vtd.write(offset::GCMD, 4, TE.into());
    }

    fn forget_contexts(&self) {
        self.vtd.write(offset::CCMD, 8, 1 << 63 | 1 << 61);
    }
}

impl Host {
    fn runs(&self) -> Vec<(u64, u64, u64)> {
        let runs = self.runs.lock().unwrap();
        let run = |(&iova, &(len, gpa)): (&u64, &(u64, u64))| (iova, len, gpa);
        runs.iter().map(run).collect()
    }
}

const ALL: (u64, u64, u64) = (0, RAM, 0);

#[test]
fn a_device_reaches_what_the_guest_maps_for_its_address() {
    let board = Board::new();
    let (space, host) = board.space();
    let member = space.join("nic");
    board.followers.fill(&space).unwrap();
    assert_eq!(host.runs(), [ALL], "identity at first");
    board.domain(0, 1, 0x70_0000);
    board.turn_on();
    assert_eq!(host.runs(), [], "its bus has no number");
    member.requester_changed(Bdf::new(1, 0, 0));
    assert_eq!(host.runs(), [(0x70_0000, 0x1000, 0x5000)]);
    let usage = SpaceUsage {
        devices: vec!["nic".into()],
        mappings: 1,
        bytes: 0x1000,
    };
    assert_eq!(board.followers.usage(), [usage]);
    member.requester_changed(Bdf::new(2, 0, 0));
    assert_eq!(host.runs(), [], "that bus has no contexts");
    board.vtd.reset();
    assert_eq!(host.runs(), [ALL], "identity again");
    member.leave();
    assert_eq!(host.runs(), []);
    member.requester_changed(Bdf::new(1, 0, 0));
    board.vtd.reset();
    assert_eq!(host.runs(), [], "it has left for good");
    assert!(space.is_empty());
}

#[test]
fn spaces_know_nothing_of_each_other() {
    let board = Board::new();
    let ((one, first), (two, second)) = (board.space(), board.space());
    let (a, b) = (one.join("a"), two.join("b"));
    board.followers.fill(&one).unwrap();
    board.followers.fill(&two).unwrap();
    board.domain(0, 1, 0x70_0000);
    board.domain(1, 2, 0x80_0000);
    board.turn_on();
    a.requester_changed(Bdf::new(1, 0, 0));
    b.requester_changed(Bdf::new(1, 0, 1));
    assert_eq!(first.runs(), [(0x70_0000, 0x1000, 0x5000)]);
    assert_eq!(second.runs(), [(0x80_0000, 0x1000, 0x5000)]);
    drop(b);
    assert_eq!((first.runs().len(), second.runs().len()), (1, 0));
    drop(two);
    assert_eq!(board.followers.usage().len(), 1);
}

#[test]
fn devices_of_a_group_share_while_the_guest_has_them_together() {
    let board = Board::new();
    let (space, host) = board.space();
    let (a, b) = (space.join("a"), space.join("b"));
    board.followers.fill(&space).unwrap();
    board.domain(0, 1, 0x70_0000);
    board.turn_on();
    a.requester_changed(Bdf::new(1, 0, 0));
    b.requester_changed(Bdf::new(1, 0, 1));
    assert_eq!(host.runs(), [], "one of them is in no domain");
    let devices = || board.followers.usage()[0].devices.clone();
    assert_eq!(devices(), ["a", "b"]);
    board.domain(1, 1, 0x70_0000);
    board.forget_contexts();
    assert_eq!(host.runs().len(), 1);
    board.domain(1, 2, 0x70_0000);
    board.forget_contexts();
    assert_eq!(host.runs(), []);
    b.leave();
    assert_eq!(devices(), ["a"]);
    assert_eq!(host.runs().len(), 1);
    assert!(!space.is_empty());
}

#[test]
fn a_mapping_that_fails_is_the_devices_loss() {
    let board = Board::new();
    let (space, host) = board.space();
    let member = space.join("nic");
    board.domain(0, 1, 0x70_0000);
    *host.full.lock().unwrap() = true;
    assert!(matches!(
        board.followers.fill(&space),
        Err(ShadowError::Map { .. })
    ));
    board.turn_on();
    member.requester_changed(Bdf::new(1, 0, 0));
    assert_eq!(host.runs(), []);
    // It is tried again with the next change.
    *host.full.lock().unwrap() = false;
    board.forget_contexts();
    assert_eq!(host.runs().len(), 1);
}

#[test]
fn device_tlbs_are_shown_where_the_unit_knows_of_them() {
    let own = Presentation {
        no_mmap: true,
        ..Presentation::default()
    };
    for device_tlb in [false, true] {
        let shown = Board::with(device_tlb).behind().present(own.clone());
        assert_eq!((shown.device_tlb, shown.no_mmap), (device_tlb, true));
    }
}

const QUEUE: u64 = 0x3000;
const STATUS: u64 = 0x9000;

/// The host's IOMMU driver flushes a Device-TLB when it unmaps. So what the guest then asks of
/// the Device-TLB has been done.
#[test]
fn a_device_reaches_nothing_that_is_gone_when_its_device_tlb_is_done_with() {
    let board = Board::with(true);
    let (space, host) = board.space();
    let member = space.join("0000:02:10.0");
    board.followers.fill(&space).unwrap();
    board.domain(0, 1, 0x70_0000);
    // With a Device-TLB: TT 01b.
    board.poke(CONTEXTS, (DOMAINS + 0x4000) | 1 << 2 | 1);
    board.turn_on();
    member.requester_changed(Bdf::new(1, 0, 0));
    let page = (0x70_0000, 0x1000, 0x5000);
    assert_eq!(host.runs(), [page]);

    board.vtd.write(offset::IQA, 8, QUEUE);
    board.vtd.write(offset::GCMD, 4, (TE | 1 << 26).into());
    let iotlb = [2 | 3 << 4 | 1 << 16, 0x70_0000];
    let device_tlb = [3 | 1 << 16 | 0x0100 << 32, 0x70_0000];
    let wait = |data: u64| [5 | 1 << 5 | data << 32, STATUS];
    let mut at = QUEUE;
    let mut submit = |descriptors: &[[u64; 2]]| {
        for quad in descriptors.iter().flatten() {
            board.poke(at, *quad);
            at += 8;
        }
        board.vtd.write(offset::IQT, 8, at - QUEUE);
    };
    let status = || board.ram.read_obj::<u32>(GuestAddress(STATUS)).unwrap();

    // The page is gone from the tables. Asked of the Device-TLB alone, that changes nothing.
    board.poke(DOMAINS + 0x4000 + 3 * 0x1000 + 8 * 0x100, 0);
    submit(&[device_tlb, wait(1)]);
    assert_eq!((host.runs(), status()), (vec![page], 1));
    submit(&[iotlb, device_tlb, wait(2)]);
    assert_eq!((host.runs(), status()), (vec![], 2));
    let waits = host.waits.lock().unwrap();
    assert_eq!(waits.last(), Some(&1), "before the second wait");
}

/// The host's kernel, as far as spaces and devices are opened there.
struct FakeKernel {
    ram: usize,
    /// Devices that cannot be opened.
    broken: &'static [&'static str],
    /// Spaces cannot be mapped into.
    full: bool,
    made: Mutex<Vec<Weak<Host>>>,
}

impl FakeKernel {
    fn new(board: &Board) -> Self {
        Self {
            ram: board.ram.get_host_address(GuestAddress(0)).unwrap() as usize,
            broken: &[],
            full: false,
            made: Mutex::default(),
        }
    }

    fn make(&self) -> Arc<Host> {
        let host = Arc::<Host>::default();
        *host.ram.lock().unwrap() = self.ram;
        *host.full.lock().unwrap() = self.full;
        self.made.lock().unwrap().push(Arc::downgrade(&host));
        host
    }

    /// How many spaces there are, and how many have been made.
    fn spaces(&self) -> (usize, usize) {
        let made = self.made.lock().unwrap();
        let live = made.iter().filter(|host| host.strong_count() > 0);
        (live.count(), made.len())
    }
}

impl Opener for FakeKernel {
    type Interface = Arc<Host>;
    type Device = ();

    fn choose(&self) -> Result<Arc<Host>, Error> {
        Ok(self.make())
    }

    fn another(&self, _: &Arc<Host>) -> Result<Arc<Host>, Error> {
        Ok(self.make())
    }

    fn check_wishes(&self, _: &Arc<Host>) -> Result<(), Error> {
        Ok(())
    }

    fn mapper(&self, host: &Arc<Host>) -> Arc<dyn HostMapper> {
        host.clone()
    }

    fn open(&self, _: &Arc<Host>, prospect: &Prospect) -> Result<Arc<()>, Error> {
        match self.broken.contains(&&*prospect.candidate.name) {
            // Any error will do.
            true => Err(Error::NoCachingMode),
            false => Ok(Arc::new(())),
        }
    }
}

/// Devices in groups of their own, which are called as they are.
fn prospects(names: &[&str]) -> Vec<Prospect> {
    let prospect = |name: &&str| Prospect {
        candidate: Candidate {
            name: (*name).into(),
            address: None,
            sysfs: "/nonexistent".into(),
        },
        file: None,
        function: None,
    };
    names.iter().map(prospect).collect()
}

#[test]
fn nothing_is_left_of_spaces_that_devices_could_not_be_opened_into() {
    let board = Board::new();
    let mut shadows = Shadows::new(board.behind());
    let memory = Memory {
        ram: board.ram.clone(),
        pages: HugePages::Off,
    };
    let mut kernel = FakeKernel::new(&board);
    kernel.broken = &["broken"];
    let mut open = |kernel: &FakeKernel, names: &[&str]| {
        let opened = shadows.open(kernel, &prospects(names), &memory);
        (opened, shadows.spaces.len())
    };
    // As the first of all, and after another one.
    for names in [&["broken"][..], &["a", "b", "broken"]] {
        let (opened, spaces) = open(&kernel, names);
        assert!(opened.is_err());
        assert_eq!((kernel.spaces().0, spaces), (0, 0), "{names:?}");
        assert_eq!(board.followers.usage(), []);
    }
    assert_eq!(kernel.spaces().1, 4);
    // Those that are there stay, and are as they were.
    let (first, _) = open(&kernel, &["a", "b"]);
    let first = first.unwrap();
    let before = board.followers.usage();
    let (opened, spaces) = open(&kernel, &["c", "broken"]);
    assert!(opened.is_err());
    assert_eq!((kernel.spaces().0, spaces), (2, 2));
    kernel.full = true;
    let (opened, spaces) = open(&kernel, &["c"]);
    assert!(matches!(opened, Err(Error::Shadow(_))));
    assert_eq!((kernel.spaces().0, spaces), (2, 2));
    assert_eq!(board.followers.usage(), before);
    // Nor is anything left of a space whose devices have gone.
    kernel.full = false;
    drop(first);
    let (opened, spaces) = open(&kernel, &["c"]);
    assert_eq!((kernel.spaces().0, spaces), (1, 1));
    drop(opened);
}
