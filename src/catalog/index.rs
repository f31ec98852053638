//! The bindings of one bucket, arranged by what they ask of a key. Immutable: a change makes another index.
//!
//! Every filter has a literal beginning (a glob's is the text before its first special character). Bindings with the
//! same one stand together, found by a hash of the key's beginning, once for each length that occurs (at most 1,025,
//! few in practice). What is left is checked on these survivors: event mask, then suffix or glob. An entry holds a
//! binding's id, not the binding, so a million bindings with a million prefixes take below 200 bytes each; only globs,
//! which are compiled, take kilobytes.

use std::{collections::HashMap, ops::Range};

use crate::domain::{
    binding::Binding,
    filter::{Glob, KeyFilter},
    ids::BindingId,
};

/// What a compiled glob takes, roughly.
const GLOB_BYTES: usize = 4_096;
/// What a distinct beginning takes beside its text: its place in a hash table that may be half empty.
const GROUP_BYTES: usize = 96;
/// What a text of its own takes beside its bytes.
const TEXT_BYTES: usize = 16;

#[derive(Debug)]
struct Entry {
    id: BindingId,
    events: u64,
    rest: Rest,
}

/// What is left to be checked once the beginning fits.
#[derive(Debug)]
enum Rest {
    Nothing,
    Suffix(Box<str>),
    Glob(Box<KeyFilter>),
}

impl Rest {
    fn fits(&self, key: &str) -> bool {
        match self {
            Self::Nothing => true,
            Self::Suffix(suffix) => key.ends_with(&**suffix),
            Self::Glob(glob) => glob.matches(key),
        }
    }
}

/// Bindings that match events, of one bucket.
#[derive(Debug)]
pub(super) struct BucketIndex {
    /// All bits of all entries.
    events: u64,
    /// Lengths of the beginnings, each once, ascending.
    lengths: Vec<usize>,
    groups: HashMap<Box<[u8]>, Range<usize>>,
    entries: Vec<Entry>,
    weight: u32,
}

/// Collects bindings for an index.
#[derive(Debug, Default)]
pub(super) struct Builder {
    collected: Vec<(Box<[u8]>, Entry)>,
    bytes: usize,
}

impl Builder {
    /// Takes in a binding, unless it is in a state that does not match.
    pub(super) fn add(&mut self, binding: &Binding) {
        if !binding.state.matches() {
            return;
        }
        let filter = &binding.spec.filter;
        let rest = match &filter.keys {
            KeyFilter::Affix { suffix, .. } if suffix.is_empty() => Rest::Nothing,
            KeyFilter::Affix { suffix, .. } => Rest::Suffix(suffix.as_str().into()),
            glob @ KeyFilter::Glob(_) => Rest::Glob(Box::new(glob.clone())),
        };
        self.bytes += size_of::<Entry>()
            + match &rest {
                Rest::Nothing => 0,
                Rest::Suffix(suffix) => TEXT_BYTES + suffix.len(),
                Rest::Glob(_) => GLOB_BYTES + size_of::<Glob>(),
            };
        let entry = Entry { id: binding.id, events: filter.events.mask(), rest };
        self.collected.push((filter.keys.literal_prefix().as_bytes().into(), entry));
    }

    /// The index of what was taken in.
    pub(super) fn finish(mut self) -> BucketIndex {
        self.collected.sort_unstable_by(|(a, x), (b, y)| (a, x.id).cmp(&(b, y.id)));
        let mut index = BucketIndex {
            events: 0,
            lengths: Vec::new(),
            groups: HashMap::new(),
            entries: Vec::with_capacity(self.collected.len()),
            weight: 0,
        };
        for (prefix, entry) in self.collected {
            let at = index.entries.len();
            index.events |= entry.events;
            index.entries.push(entry);
            index.lengths.push(prefix.len());
            let length = prefix.len();
            let group = index.groups.entry(prefix).or_insert_with(|| {
                self.bytes += length + GROUP_BYTES;
                at..at
            });
            group.end = at + 1;
        }
        index.lengths.sort_unstable();
        index.lengths.dedup();
        index.lengths.shrink_to_fit();
        index.weight = u32::try_from(self.bytes + size_of::<BucketIndex>()).unwrap_or(u32::MAX);
        index
    }
}

impl BucketIndex {
    /// Ids of the bindings whose events and keys fit.
    pub(super) fn candidates<'a>(
        &'a self,
        event: u64,
        key: &'a str,
    ) -> impl Iterator<Item = BindingId> + Send + 'a {
        let lengths = if self.events & event == 0 { &[] } else { self.lengths.as_slice() };
        let beginnings = lengths.iter().map_while(|length| key.as_bytes().get(..*length));
        let entries = beginnings
            .filter_map(|beginning| self.groups.get(beginning))
            .flat_map(|range| &self.entries[range.clone()]);
        entries.filter(move |entry| entry.events & event != 0 && entry.rest.fits(key)).map(|entry| entry.id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that it takes in memory, roughly.
    pub(super) fn weight(&self) -> u32 {
        self.weight
    }
}
