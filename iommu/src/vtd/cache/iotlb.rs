//! A shard's IOTLB: four-way sets of pages of all three sizes, tagged with the domain.

use super::super::walk::Page;
use crate::Access;

const SETS: usize = 256;
const WAYS: usize = 4;

/// Page lengths, as powers of two.
const SHIFTS: [u8; 3] = [12, 21, 30];

#[derive(Clone, Copy)]
struct Entry {
    domain: u16,
    page: Page,
}

/// The pages. It takes memory when the first one comes.
#[derive(Default)]
pub(super) struct Iotlb {
    sets: Vec<[Option<Entry>; WAYS]>,
    /// How many there are of each size: sizes that are not there are not looked for.
    counts: [usize; SHIFTS.len()],
    victim: usize,
}

impl Iotlb {
    /// The page of `iova` if it may be accessed so. If it may not, the tables have the last
    /// word: software need not announce that it allows more (CAP.CM).
    pub fn get(&self, domain: u16, iova: u64, access: Access) -> Option<Page> {
        for (&shift, &count) in SHIFTS.iter().zip(&self.counts) {
            if count == 0 {
                continue;
            }
            let set = self.sets.get(set_of(domain, iova, shift))?;
            for entry in set.iter().flatten() {
                if entry.is(domain, iova, shift) {
                    let allowed = match access {
                        Access::Read => entry.page.read,
                        Access::Write => entry.page.write,
                    };
                    return allowed.then_some(entry.page);
                }
            }
        }
        None
    }

    /// Keeps a page.
    pub fn insert(&mut self, domain: u16, page: Page) {
        if self.sets.is_empty() {
            self.sets = vec![[None; WAYS]; SETS];
        }
        self.victim = (self.victim + 1) % WAYS;
        let victim = self.victim;
        let set = &mut self.sets[set_of(domain, page.iova, page.shift)];
        let same = |e: &Option<Entry>| e.is_some_and(|e| e.is(domain, page.iova, page.shift));
        let way = set
            .iter()
            .position(same)
            .or_else(|| set.iter().position(Option::is_none))
            .unwrap_or(victim);
        if let Some(old) = set[way].replace(Entry { domain, page }) {
            self.counts[size(old.page.shift)] -= 1;
        }
        self.counts[size(page.shift)] += 1;
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        if self.counts != [0; SHIFTS.len()] {
            self.sets.fill([None; WAYS]);
            self.counts = [0; SHIFTS.len()];
        }
    }

    /// Forgets a domain.
    pub fn invalidate_domain(&mut self, domain: u16) {
        if self.counts == [0; SHIFTS.len()] {
            return;
        }
        for set in 0..self.sets.len() {
            self.forget(set, |e| e.domain == domain);
        }
    }

    /// Forgets the pages of a domain that overlap 2 to the `order` 4 KiB pages at `iova`.
    pub fn invalidate(&mut self, domain: u16, iova: u64, order: u8) {
        let len = 1_u64 << (12 + order.min(51));
        for (i, shift) in SHIFTS.into_iter().enumerate() {
            if self.counts[i] == 0 {
                continue;
            }
            let pages = (len >> shift).max(1);
            let overlaps = |e: &Entry| {
                let from = iova >> shift;
                let number = e.page.iova >> shift;
                e.domain == domain && e.page.shift == shift && number.wrapping_sub(from) < pages
            };
            if pages >= SETS as u64 {
                for set in 0..self.sets.len() {
                    self.forget(set, overlaps);
                }
                continue;
            }
            for page in 0..pages {
                let at = iova.wrapping_add(page << shift);
                self.forget(set_of(domain, at, shift), overlaps);
            }
        }
    }

    fn forget(&mut self, set: usize, which: impl Fn(&Entry) -> bool) {
        let Some(set) = self.sets.get_mut(set) else {
            return;
        };
        for way in set {
            if let Some(old) = way.take_if(|e| which(e)) {
                self.counts[size(old.page.shift)] -= 1;
            }
        }
    }
}

impl Entry {
    fn is(&self, domain: u16, iova: u64, shift: u8) -> bool {
        self.domain == domain && self.page.shift == shift && (self.page.iova ^ iova) >> shift == 0
    }
}

/// Neighbouring pages are in neighbouring sets, and domains begin in different places.
fn set_of(domain: u16, iova: u64, shift: u8) -> usize {
    let page = (iova >> shift) as usize;
    page.wrapping_add(usize::from(domain).wrapping_mul(67)) % SETS
}

fn size(shift: u8) -> usize {
    SHIFTS.iter().position(|&s| s == shift).unwrap_or(0)
}
