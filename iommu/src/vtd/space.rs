//! What a requester reaches, all of it: for whoever mirrors it elsewhere.

use std::ops::{ControlFlow, Range};

use pci::Bdf;
use vm_memory::{Bytes, GuestAddress};

use super::Vtd;
use super::memory::read_entry;
use super::protected::Protected;
use super::sink::TranslationChange;
use super::tables::{PageEntry, level_shift};
use super::walk::{Page, Stage, Tables};
use crate::INTERRUPT_RANGE;

/// A requester's I/O virtual addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AddressSpace {
    /// None: all its requests are blocked.
    Nothing,
    /// Guest-physical addresses of so many bits, but for protected memory.
    Identity { width: u8, protected: Protected },
    /// Those of a domain, by second-stage tables.
    Domain { domain: u16, root: u64, levels: u8 },
    /// Those of a first stage, alone or nested: more than can be mirrored, as software need not
    /// announce what it adds to its tables (VT-d 4.1 §6.1).
    FirstStage,
}

impl AddressSpace {
    /// The domain whose page tables matter.
    pub fn domain(&self) -> Option<u16> {
        match *self {
            Self::Domain { domain, .. } => Some(domain),
            _ => None,
        }
    }
}

/// There are more tables than were to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TooManyTables;

/// Entries of a table that are read one by one; if more, the table is read at once.
const FEW: u64 = 8;

impl Vtd {
    /// Where a requester's address space is, according to the tables now. Nothing is recorded.
    pub(crate) fn address_space(&self, requester: Bdf) -> AddressSpace {
        if !self.live.mode().translates() {
            return self.identity(self.config.address_bits());
        }
        match self.find_context(requester) {
            Err(_) => AddressSpace::Nothing,
            Ok(context) => match context.stage {
                Stage::PassThrough => self.identity(context.width),
                Stage::Tables(Tables { root, levels }) => AddressSpace::Domain {
                    domain: context.domain,
                    root,
                    levels,
                },
                Stage::First(_) | Stage::Nested(..) => AddressSpace::FirstStage,
            },
        }
    }

    /// False if a requester, where it is according to the tables now, is surely not affected.
    pub fn may_concern(&self, change: TranslationChange, requester: Bdf) -> bool {
        match self.address_space(requester) {
            AddressSpace::FirstStage => true,
            space => change.concerns(requester, space.domain()),
        }
    }

    /// The address space of all of them, or nothing if they do not have the same.
    pub(crate) fn common_space(&self, requesters: &[Bdf]) -> AddressSpace {
        if !self.live.mode().translates() {
            return self.identity(self.config.address_bits());
        }
        let mut spaces = requesters.iter().map(|id| self.address_space(*id));
        let first = spaces.next().unwrap_or(AddressSpace::Nothing);
        match spaces.all(|space| space == first) {
            true => first,
            false => AddressSpace::Nothing,
        }
    }

    fn identity(&self, width: u8) -> AddressSpace {
        AddressSpace::Identity {
            width,
            protected: self.live.protected(),
        }
    }

    /// Calls `visit` with each page of a domain that overlaps `range`, in order of I/O virtual
    /// address, until it breaks. Looks at `tables` tables at most: some may be there many
    /// times over.
    pub(crate) fn for_each_page(
        &self,
        (root, levels): (u64, u8),
        range: Range<u64>,
        tables: usize,
        visit: &mut dyn FnMut(Page) -> ControlFlow<()>,
    ) -> Result<(), TooManyTables> {
        let top = 1 << (12 + 9 * levels);
        let mut descent = Descent {
            vtd: self,
            range: range.start..range.end.min(top),
            tables,
            visit,
        };
        let whole = Page {
            iova: 0,
            gpa: root,
            shift: 12,
            read: true,
            write: true,
        };
        match descent.table(whole, levels) {
            ControlFlow::Break(Some(too_many)) => Err(too_many),
            _ => Ok(()),
        }
    }
}

struct Descent<'a> {
    vtd: &'a Vtd,
    range: Range<u64>,
    /// How many more may be looked at.
    tables: usize,
    visit: &'a mut dyn FnMut(Page) -> ControlFlow<()>,
}

type Flow = ControlFlow<Option<TooManyTables>>;

impl Descent<'_> {
    /// `table` says where the table is, what it is first about, and what is allowed above it.
    fn table(&mut self, table: Page, level: u8) -> Flow {
        let Some(left) = self.tables.checked_sub(1) else {
            return ControlFlow::Break(Some(TooManyTables));
        };
        self.tables = left;
        let shift = level_shift(level);
        let indices = self.indices(table.iova, shift);
        if indices.end.saturating_sub(indices.start) > FEW {
            return self.many(table, level, indices);
        }
        for index in indices {
            let at = table.gpa.saturating_add(8 * index);
            let entry = read_entry(&self.vtd.memory, at).unwrap_or(0);
            self.entry(PageEntry(entry), table, index, level)?;
        }
        ControlFlow::Continue(())
    }

    /// Reads a table at once. One that is not in RAM has no entries.
    fn many(&mut self, table: Page, level: u8, indices: Range<u64>) -> Flow {
        let mut bytes = [0; 0x1000];
        let start = GuestAddress(table.gpa);
        if self.vtd.memory.read_slice(&mut bytes, start).is_err() {
            return ControlFlow::Continue(());
        }
        let (entries, _) = bytes.as_chunks();
        for (index, entry) in (0..).zip(entries).filter(|(i, _)| indices.contains(i)) {
            let entry = PageEntry(u64::from_le_bytes(*entry));
            self.entry(entry, table, index, level)?;
        }
        ControlFlow::Continue(())
    }

    fn entry(&mut self, entry: PageEntry, table: Page, index: u64, level: u8) -> Flow {
        if !entry.present() || entry.is_reserved(level, &self.vtd.config) {
            return ControlFlow::Continue(());
        }
        let leaf = entry.is_leaf(level);
        let shift = if leaf { level_shift(level) } else { 12 };
        let next = Page {
            iova: table.iova | index << level_shift(level),
            gpa: entry.address(shift),
            shift,
            read: table.read && entry.read(),
            write: table.write && entry.write(),
        };
        match leaf {
            _ if !(next.read || next.write) => ControlFlow::Continue(()),
            true => match (self.visit)(next) {
                ControlFlow::Continue(()) => ControlFlow::Continue(()),
                ControlFlow::Break(()) => ControlFlow::Break(None),
            },
            // Leaves are all there is at level 1.
            false => self.table(next, level - 1),
        }
    }

    /// Which entries of a table that begins at `iova` are about the range.
    fn indices(&self, iova: u64, shift: u8) -> Range<u64> {
        let index = |at: u64| (at.saturating_sub(iova) >> shift).min(512);
        let last = self.range.end.saturating_sub(1);
        if self.range.is_empty() || last < iova {
            return 0..0;
        }
        index(self.range.start)..(index(last) + 1).min(512)
    }
}

/// I/O virtual addresses that are never translated.
pub(crate) const UNTRANSLATED: Range<u64> = INTERRUPT_RANGE;
