//! Packing a package without a tar, in full or told by another, honestly or piece by piece.

use blat_target::delta::{GROUP, Origin, Recipe, Source, Streams, seal};
use blat_target::manifest::Kind;
use blat_target::message::{DeltaHead, Digest, PackageHead, ToTarget};

use super::Host;
use super::pack::{Parts, STAMP};
use blat_target::stamp::Stamp;

/// A package told by another, in its parts, each of which a test may bend.
#[derive(Clone)]
pub struct Told {
    /// Its manifest; the tar is not sent.
    pub parts: Parts,
    pub base: String,
    pub base_stamp: Stamp,
    pub recipe: Recipe,
    pub recipe_length: Option<u32>,
    /// What follows the recipe, but for the seals.
    pub content: Vec<u8>,
    pub digests: Vec<Digest>,
    pub seals: Option<Vec<Digest>>,
}

impl Told {
    /// With its `descpkg`, which is the base's.
    pub fn described(id: &str, base: &str) -> Self {
        Self::new(id, base).same("descpkg", b"about")
    }

    /// In full, with its `descpkg`.
    pub fn in_full(id: &str) -> Self {
        Self::new(id, "none").whole("descpkg", b"about")
    }

    fn new(id: &str, base: &str) -> Self {
        Self {
            parts: Parts::new(id),
            base: base.into(),
            base_stamp: Stamp(STAMP),
            recipe: Recipe { files: Vec::new() },
            recipe_length: None,
            content: Vec::new(),
            digests: Vec::new(),
            seals: None,
        }
    }

    /// A file that is said to be what it is in the base.
    pub fn same(self, path: &str, content: &[u8]) -> Self {
        self.file(path, content, Source::Same(Origin::SamePath), &[])
    }

    /// A file that is said to be another one of the base.
    pub fn moved(self, path: &str, content: &[u8], from: &str) -> Self {
        self.file(path, content, Source::Same(Origin::Path(from.into())), &[])
    }

    pub fn whole(self, path: &str, content: &[u8]) -> Self {
        self.file(path, content, Source::Whole, content)
    }

    /// A file that is made of the base's by one chunk of changes.
    pub fn changed(self, path: &str, content: &[u8], changes: &Streams) -> Self {
        self.file(path, content, Source::Changed(Origin::SamePath), &chunk(&[], changes))
    }

    pub fn file(mut self, path: &str, content: &[u8], source: Source, sent: &[u8]) -> Self {
        self.parts = self.parts.entry(path, 0o644, Kind::File { size: content.len() as u64, digest: None });
        self.recipe.files.push(source);
        self.digests.push(Digest(*blake3::hash(content).as_bytes()));
        self.content.extend_from_slice(sent);
        self
    }

    /// Manifest, recipe, content, seals.
    pub fn plain(&self) -> Vec<u8> {
        self.plain_with(&self.recipe.encode())
    }

    /// Manifest, content, seals.
    pub fn plain_in_full(&self) -> Vec<u8> {
        self.plain_with(&[])
    }

    fn plain_with(&self, recipe: &[u8]) -> Vec<u8> {
        let seals: Vec<_> = self.digests.chunks(GROUP).map(|group| seal(group.iter().copied())).collect();
        let mut plain = [&self.parts.manifest.encode(), recipe, &self.content].concat();
        self.seals.as_ref().unwrap_or(&seals).iter().for_each(|seal| plain.extend_from_slice(&seal.0));
        plain
    }

    fn head(&self, number: u64) -> PackageHead {
        let manifest_length = self.parts.manifest.encode().len() as u32;
        PackageHead { number, id: self.parts.id.clone(), stamp: self.parts.stamp, manifest_length }
    }
}

/// A chunk of changes, and before it where a program's parts moved, if that is to be said.
pub fn chunk(relocation: &[u8], changes: &Streams) -> Vec<u8> {
    let length = (relocation.len() as u32).to_le_bytes();
    [&length[..], relocation, &changes.header(), &changes.parts().concat()].concat()
}

impl Host {
    /// Announces a package that is told by another, without its bytes.
    pub fn begin_told(&mut self, told: &Told) -> u64 {
        let number = self.number();
        let recipe_length = told.recipe_length.unwrap_or(told.recipe.encode().len() as u32);
        let head = told.head(number);
        let (base, base_stamp) = (told.base.parse().unwrap(), told.base_stamp);
        self.say(&ToTarget::Delta(DeltaHead { head, base, base_stamp, recipe_length }));
        number
    }

    pub fn tell(&mut self, told: &Told) -> u64 {
        let number = self.begin_told(told);
        self.bytes(&told.plain());
        self.say(&ToTarget::PackageEnd);
        number
    }

    /// Announces a package that comes in full, without its bytes.
    pub fn begin_in_full(&mut self, told: &Told) -> u64 {
        let number = self.number();
        self.say(&ToTarget::Whole(told.head(number)));
        number
    }

    pub fn send_in_full(&mut self, told: &Told) -> u64 {
        let number = self.begin_in_full(told);
        self.bytes(&told.plain_in_full());
        self.say(&ToTarget::PackageEnd);
        number
    }

    /// Sends files in full, by their numbers.
    pub fn mend(&mut self, number: u64, files: &[(u32, &[u8])]) {
        self.say(&ToTarget::Mend { number, files: files.len() as u32 });
        let mut plain: Vec<u8> = files.iter().flat_map(|(file, _)| file.to_le_bytes()).collect();
        for (_, content) in files {
            plain.extend_from_slice(content);
            plain.extend_from_slice(blake3::hash(content).as_bytes());
        }
        self.bytes(&plain);
        self.say(&ToTarget::PackageEnd);
    }
}
