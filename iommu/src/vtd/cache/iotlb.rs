//! A shard's IOTLB: four-way sets of pages of all three sizes, tagged with the domain. A set
//! is a cache line.

use super::super::walk::Page;
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

/// A page: its tag, and its guest-physical address with R and W as in a page-table entry.
#[derive(Clone, Copy, Default)]
struct Entry {
    tag: Tag,
    to: u64,
}

const READ: u64 = 1;
const WRITE: u64 = 2;

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Set([Entry; WAYS]);

/// The pages. It takes memory when the first one comes.
#[derive(Default)]
pub(super) struct Iotlb {
    sets: Vec<Set>,
    /// How many there are of each size: sizes that are not there are not looked for.
    counts: [usize; SHIFTS.len()],
    victim: usize,
}

impl Iotlb {
    /// The page of `iova` if it may be accessed so. If it may not, the tables have the last
    /// word: software need not announce that it allows more (CAP.CM).
    pub fn get(&self, domain: u16, iova: u64, access: Access) -> Option<Page> {
        let needed = match access {
            Access::Read => READ,
            Access::Write => WRITE,
        };
        for (size, &shift) in SHIFTS.iter().enumerate() {
            if self.counts[size] == 0 {
                continue;
            }
            let tag = Tag::new(domain, iova, size);
            let set = self.sets.get(tag.set(size))?;
            let there = |entry: &&Entry| entry.tag == tag && entry.to & needed != 0;
            if let Some(entry) = set.0.iter().find(there) {
                return Some(Page {
                    iova: tag.iova(),
                    gpa: entry.to & !0xfff,
                    shift,
                    read: entry.to & READ != 0,
                    write: entry.to & WRITE != 0,
                });
            }
        }
        None
    }

    /// Keeps a page.
    pub fn insert(&mut self, domain: u16, page: Page) {
        let Some(size) = SHIFTS.iter().position(|&shift| shift == page.shift) else {
            return;
        };
        if self.sets.is_empty() {
            self.sets = vec![Set::default(); SETS];
        }
        let tag = Tag::new(domain, page.iova, size);
        let set = &mut self.sets[tag.set(size)].0;
        let same = set.iter().position(|entry| entry.tag == tag);
        let free = || set.iter().position(|entry| entry.tag == Tag::default());
        let way = same.or_else(free).unwrap_or_else(|| {
            self.victim = (self.victim + 1) % WAYS;
            self.victim
        });
        let (read, write) = (u64::from(page.read), u64::from(page.write));
        let new = Entry {
            tag,
            to: page.gpa | (read * READ) | (write * WRITE),
        };
        let old = std::mem::replace(&mut set[way], new);
        if let Some(size) = old.tag.size() {
            self.counts[size] -= 1;
        }
        self.counts[size] += 1;
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        if !self.is_empty() {
            self.sets.fill(Set::default());
            self.counts = Default::default();
        }
    }

    /// Forgets a domain.
    pub fn invalidate_domain(&mut self, domain: u16) {
        if !self.is_empty() {
            for set in 0..self.sets.len() {
                self.forget(set, |tag| tag.domain() == domain);
            }
        }
    }

    /// Forgets the pages of a domain that overlap 2 to the `order` 4 KiB pages at `iova`.
    pub fn invalidate(&mut self, domain: u16, iova: u64, order: u8) {
        let len = 1_u64 << (12 + order.min(51));
        for (size, shift) in SHIFTS.into_iter().enumerate() {
            if self.counts[size] == 0 {
                continue;
            }
            let pages = (len >> shift).max(1);
            let overlaps = |tag: Tag| {
                let distance = (tag.iova() >> shift).wrapping_sub(iova >> shift);
                tag.domain() == domain && tag.size() == Some(size) && distance < pages
            };
            if pages >= SETS as u64 {
                for set in 0..self.sets.len() {
                    self.forget(set, overlaps);
                }
                continue;
            }
            for page in 0..pages {
                let tag = Tag::new(domain, iova.wrapping_add(page << shift), size);
                self.forget(tag.set(size), overlaps);
            }
        }
    }

    fn forget(&mut self, set: usize, which: impl Fn(Tag) -> bool) {
        let Some(set) = self.sets.get_mut(set) else {
            return;
        };
        for entry in &mut set.0 {
            if let Some(size) = entry.tag.size().filter(|_| which(entry.tag)) {
                *entry = Entry::default();
                self.counts[size] -= 1;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.counts == [0; SHIFTS.len()]
    }
}
