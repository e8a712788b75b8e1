//! A shard's IOTLB: four-way sets of pages of all three sizes, tagged with whose they are. A set
//! is a cache line.

use super::super::scalable::canonical_bits;
use super::super::walk::Page;
use super::{Owner, Stages};
use crate::Access;

const SETS: usize = 256;
const WAYS: usize = 4;

/// Page lengths, as powers of two.
const SHIFTS: [u8; 3] = [12, 21, 30];

/// Which page: its first 4 KiB page number in bits 62:18, the domain in 17:2, and in 1:0 one
/// more than the place of its length in [`SHIFTS`]. Zero is none.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Tag(u64);

impl Tag {
    fn new(domain: u16, iova: u64, size: usize) -> Self {
        let page = (iova & u64::MAX << SHIFTS[size]) >> 12;
        Self(page << 18 | u64::from(domain) << 2 | (size as u64 + 1))
    }

    fn domain(self) -> u16 {
        (self.0 >> 2) as u16
    }

    /// The place of its length in [`SHIFTS`], if it is a page.
    fn size(self) -> Option<usize> {
        (self.0 as usize & 3).checked_sub(1)
    }

    fn iova(self) -> u64 {
        self.0 >> 18 << 12
    }

    /// Neighbouring pages are in neighbouring sets, and domains begin in different places.
    fn set(self, size: usize) -> usize {
        let page = (self.iova() >> SHIFTS[size]) as usize;
        page.wrapping_add(usize::from(self.domain()).wrapping_mul(67)) % SETS
    }
}

/// A page: its tag; and its guest-physical address, with R and W as in a page-table entry, the
/// stages it is from in bits 3:2, and a PASID in bits 63:52 and 11:4.
#[derive(Clone, Copy, Default)]
struct Entry {
    tag: Tag,
    to: u64,
}

const READ: u64 = 1;
const WRITE: u64 = 2;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const STAGES: u64 = 0b1100;
/// What tells the owners in a domain apart.
const OWNER: u64 = !(ADDRESS | READ | WRITE);

impl Entry {
    fn new(owner: Owner, page: Page, size: usize) -> Self {
        let (read, write) = (u64::from(page.read), u64::from(page.write));
        Self {
            tag: Tag::new(owner.domain, page.iova, size),
            to: page.gpa | (read * READ) | (write * WRITE) | owner_bits(owner),
        }
    }

    fn is_of(self, owner: Owner) -> bool {
        self.tag.domain() == owner.domain && self.to & OWNER == owner_bits(owner)
    }

    fn is_from(self, stages: Stages) -> bool {
        self.to & STAGES == stage_bits(stages)
    }
}

fn stage_bits(stages: Stages) -> u64 {
    match stages {
        Stages::Second => 0,
        Stages::First => 0b0100,
        Stages::Nested => 0b1000,
    }
}

/// Pages of the second stage are the domain's, whichever PASID they were found for.
fn owner_bits(owner: Owner) -> u64 {
    let pasid = match owner.stages {
        Stages::Second => 0,
        Stages::First | Stages::Nested => u64::from(owner.pasid),
    };
    stage_bits(owner.stages) | (pasid & 0xff) << 4 | (pasid >> 8) << 52
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Set([Entry; WAYS]);

/// The pages. It takes memory when the first one comes.
#[derive(Default)]
pub(super) struct Iotlb {
    sets: Vec<Set>,
    /// How many there are of each size: sizes that are not there are not looked for.
    counts: [usize; SHIFTS.len()],
    /// How many there are of both stages.
    nested: usize,
    victim: usize,
}

impl Iotlb {
    /// The page of `iova` if it may be accessed so. If it may not, the tables have the last
    /// word: software need not announce that it allows more (CAP.CM).
    pub fn get(&self, owner: Owner, iova: u64, access: Access) -> Option<Page> {
        let (iova, whose) = (canonical_bits(iova), owner_bits(owner));
        let needed = match access {
            Access::Read => READ,
            Access::Write => WRITE,
        };
        for (size, &shift) in SHIFTS.iter().enumerate() {
            if self.counts[size] == 0 {
                continue;
            }
            let tag = Tag::new(owner.domain, iova, size);
            let set = self.sets.get(tag.set(size))?;
            let there = |entry: &&Entry| {
                entry.tag == tag && entry.to & OWNER == whose && entry.to & needed != 0
            };
            if let Some(entry) = set.0.iter().find(there) {
                return Some(Page {
                    iova: tag.iova(),
                    gpa: entry.to & ADDRESS,
                    shift,
                    read: entry.to & READ != 0,
                    write: entry.to & WRITE != 0,
                });
            }
        }
        None
    }

    /// Keeps a page.
    pub fn insert(&mut self, owner: Owner, page: Page) {
        let Some(size) = SHIFTS.iter().position(|&shift| shift == page.shift) else {
            return;
        };
        if self.sets.is_empty() {
            self.sets = vec![Set::default(); SETS];
        }
        let new = Entry::new(owner, page, size);
        let set = &mut self.sets[new.tag.set(size)].0;
        let same = |entry: &Entry| entry.tag == new.tag && entry.is_of(owner);
        let same = set.iter().position(same);
        let free = || set.iter().position(|entry| entry.tag == Tag::default());
        let way = same.or_else(free).unwrap_or_else(|| {
            self.victim = (self.victim + 1) % WAYS;
            self.victim
        });
        let old = std::mem::replace(&mut set[way], new);
        if let Some(size) = old.tag.size() {
            self.counts[size] -= 1;
            self.nested -= usize::from(old.is_from(Stages::Nested));
        }
        self.counts[size] += 1;
        self.nested += usize::from(new.is_from(Stages::Nested));
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        if !self.is_empty() {
            self.sets.fill(Set::default());
            self.counts = Default::default();
            self.nested = 0;
        }
    }

    /// Forgets a domain.
    pub fn invalidate_domain(&mut self, domain: u16) {
        self.forget_all(|entry| entry.tag.domain() == domain);
    }

    /// Forgets the second stage's pages of a domain that overlap 2 to the `order` 4 KiB pages at
    /// `iova`, and all of both stages: these are not at addresses of the second stage.
    pub fn invalidate(&mut self, domain: u16, iova: u64, order: u8) {
        self.invalidate_pages(Owner::of_domain(domain), iova, order);
        if self.nested > 0 {
            self.forget_all(|entry| entry.tag.domain() == domain && entry.is_from(Stages::Nested));
        }
    }

    /// Forgets the pages of a PASID of a domain that are not of the second stage alone.
    pub fn invalidate_pasid(&mut self, domain: u16, pasid: u32) {
        let owners = Owner::of_pasid(domain, pasid);
        self.forget_all(|entry| owners.iter().any(|&owner| entry.is_of(owner)));
    }

    /// Forgets a PASID's first-stage pages that overlap 2 to the `order` 4 KiB pages at `iova`,
    /// and all of both stages: these may be parts of larger ones of the first stage.
    pub fn invalidate_pasid_pages(&mut self, domain: u16, pasid: u32, iova: u64, order: u8) {
        let [first, nested] = Owner::of_pasid(domain, pasid);
        self.invalidate_pages(first, canonical_bits(iova), order);
        if self.nested > 0 {
            self.forget_all(|entry| entry.is_of(nested));
        }
    }

    fn invalidate_pages(&mut self, owner: Owner, iova: u64, order: u8) {
        let len = 1_u64 << (12 + order.min(51));
        for (size, shift) in SHIFTS.into_iter().enumerate() {
            if self.counts[size] == 0 {
                continue;
            }
            let pages = (len >> shift).max(1);
            let overlaps = |entry: Entry| {
                let distance = (entry.tag.iova() >> shift).wrapping_sub(iova >> shift);
                entry.is_of(owner) && entry.tag.size() == Some(size) && distance < pages
            };
            if pages >= SETS as u64 {
                for set in 0..self.sets.len() {
                    self.forget(set, overlaps);
                }
                continue;
            }
            for page in 0..pages {
                let tag = Tag::new(owner.domain, iova.wrapping_add(page << shift), size);
                self.forget(tag.set(size), overlaps);
            }
        }
    }

    fn forget_all(&mut self, which: impl Fn(Entry) -> bool) {
        if !self.is_empty() {
            for set in 0..self.sets.len() {
                self.forget(set, &which);
            }
        }
    }

    fn forget(&mut self, set: usize, which: impl Fn(Entry) -> bool) {
        let Some(set) = self.sets.get_mut(set) else {
            return;
        };
        for entry in &mut set.0 {
            if let Some(size) = entry.tag.size().filter(|_| which(*entry)) {
                self.counts[size] -= 1;
                self.nested -= usize::from(entry.is_from(Stages::Nested));
                *entry = Entry::default();
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.counts == [0; SHIFTS.len()]
    }
}
