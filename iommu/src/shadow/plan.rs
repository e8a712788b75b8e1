//! Runs of a device's address space that are contiguous in guest memory, and how to get from
//! those that are mapped to those that are wanted.

use std::ops::Range;

/// Contiguous I/O virtual addresses for contiguous guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// First I/O virtual address.
    pub iova: u64,
    /// First guest-physical address.
    pub gpa: u64,
    /// Bytes, at least one.
    pub len: u64,
    pub writable: bool,
}

impl Run {
    /// Guest-physical addresses as they are.
    pub fn identity(range: Range<u64>) -> Self {
        Self {
            iova: range.start,
            gpa: range.start,
            len: range.end - range.start,
            writable: true,
        }
    }

    pub fn end(&self) -> u64 {
        self.iova + self.len
    }

    /// The part of it that is in `range`.
    pub fn within(&self, range: &Range<u64>) -> Option<Self> {
        let (start, end) = (self.iova.max(range.start), self.end().min(range.end));
        (start < end).then(|| Self {
            iova: start,
            gpa: self.gpa + (start - self.iova),
            len: end - start,
            ..*self
        })
    }

    /// `other` is part of it.
    fn holds(&self, other: &Self) -> bool {
        self.within(&(other.iova..other.end())) == Some(*other)
    }
}

/// Guest RAM: regions in order, each contiguous in this process too.
#[derive(Clone, Debug)]
pub(super) struct Ram(pub Vec<Range<u64>>);

impl Ram {
    /// The parts of a run that are RAM, cut where a region ends.
    pub fn parts(&self, run: Run) -> impl Iterator<Item = Run> + '_ {
        let last = run.gpa + (run.len - 1);
        self.0.iter().filter_map(move |region| {
            let start = run.gpa.max(region.start);
            let end = last.min(region.end.checked_sub(1)?);
            (start <= end).then(|| Run {
                iova: run.iova + (start - run.gpa),
                gpa: start,
                len: end - start + 1,
                ..run
            })
        })
    }

    fn starts_at(&self, gpa: u64) -> bool {
        self.0.iter().any(|region| region.start == gpa)
    }
}

/// Runs in order of I/O virtual address, each as long as can be.
#[derive(Debug)]
pub(super) struct Wanted {
    pub runs: Vec<Run>,
    limit: usize,
}

impl Wanted {
    /// Takes `limit` runs at most.
    pub fn new(limit: usize) -> Self {
        Self {
            runs: Vec::new(),
            limit,
        }
    }

    /// Adds a run after all others; it is not yet known to be RAM. False if there is no room.
    #[must_use]
    pub fn add(&mut self, ram: &Ram, run: Run) -> bool {
        ram.parts(run).all(|part| self.add_part(ram, part))
    }

    fn add_part(&mut self, ram: &Ram, part: Run) -> bool {
        if let Some(last) = self.runs.last_mut() {
            let continues = last.end() == part.iova
                && last.gpa + last.len == part.gpa
                && last.writable == part.writable
                && !ram.starts_at(part.gpa);
            if continues {
                last.len += part.len;
                return true;
            }
        }
        let room = self.runs.len() < self.limit;
        if room {
            self.runs.push(part);
        }
        room
    }

    /// A mapped run may stay: all of it is wanted as it is.
    pub fn keeps(&self, mapped: &Run) -> bool {
        let after = self.runs.partition_point(|run| run.iova <= mapped.iova);
        after
            .checked_sub(1)
            .is_some_and(|i| self.runs[i].holds(mapped))
    }

    /// What is wanted and not among the runs that stay, which are in order.
    pub fn missing(&self, kept: &[Run]) -> Vec<Run> {
        let mut missing = Vec::new();
        let mut kept = kept.iter().peekable();
        for run in &self.runs {
            let mut from = run.iova;
            while let Some(stays) = kept.next_if(|stays| stays.iova < run.end()) {
                missing.extend(run.within(&(from..stays.iova)));
                from = stays.end();
            }
            missing.extend(run.within(&(from..run.end())));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(iova: u64, gpa: u64, len: u64) -> Run {
        Run {
            iova,
            gpa,
            len,
            writable: true,
        }
    }

    #[test]
    fn runs_do_not_cross_regions_that_touch() {
        // Contiguous for the guest, but not in this process.
        let ram = Ram(vec![0..0x4000, 0x4000..0x8000]);
        let mut wanted = Wanted::new(10);
        assert!(wanted.add(&ram, run(0x1_2000, 0x2000, 0x4000)));
        assert!(wanted.add(&ram, run(0x1_6000, 0x6000, 0x4000)));
        let runs = [run(0x1_2000, 0x2000, 0x2000), run(0x1_4000, 0x4000, 0x4000)];
        assert_eq!(wanted.runs, runs);
    }

    #[test]
    fn missing_is_what_is_not_kept() {
        let ram = Ram(vec![0..0x8000, 0x10_0000..0x20_0000]);
        let mut wanted = Wanted::new(10);
        assert!(wanted.add(&ram, run(0x1000, 0x1000, 0x7000)));
        assert!(wanted.add(&ram, run(0x9000, 0x2000, 0x1000)));
        let kept = [run(0x2000, 0x2000, 0x1000), run(0x6000, 0x6000, 0x2000)];
        assert!(kept.iter().all(|run| wanted.keeps(run)));
        let missing = [
            run(0x1000, 0x1000, 0x1000),
            run(0x3000, 0x3000, 0x3000),
            run(0x9000, 0x2000, 0x1000),
        ];
        assert_eq!(wanted.missing(&kept), missing);
        assert!(!wanted.keeps(&run(0x2000, 0x3000, 0x1000)), "elsewhere");
        assert!(!wanted.keeps(&run(0x7000, 0x7000, 0x2000)), "too long");
    }
}
