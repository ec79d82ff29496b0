//! The manifest of a seed: which files a checkpoint of a copy has, and what each must be.
//!
//! The source makes it once per checkpoint and keeps it beside the files; the target verifies every
//! file against it before the file gets its name. Names are single names of files, so nothing that
//! is decoded here leads out of a directory.

use keelson_types::{CheckpointId, CopyId, DatabaseId, EpochStart, EpochTable, LogEnd, StreamId};

use crate::codec::{Reader, put_epoch, put_position, put_varint};
use crate::{FORMAT_VERSION, FormatError};

const MAGIC: [u8; 8] = *b"KEELSEED";
/// Magic, version, length of the body, checksum of all of it.
const HEADER_BYTES: usize = 20;
/// The checksum lies here in every version.
const CRC_AT: usize = 16;
/// Longest name of a file.
const NAME_BYTES_MAX: usize = 255;

/// Longest manifest: that of about 200,000 files.
pub const MANIFEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// To which directory of a copy a file belongs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SeedPlace {
    /// The store.
    Store,
    /// The log: from the generation in which the checkpoint lies, or in which its index stands, up
    /// to the checkpoint.
    Log,
    /// The content index.
    Catalog,
}

/// One file of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeedFile {
    /// Where it belongs.
    pub place: SeedPlace,
    /// Its name there.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// XXH3 of all of it, 128 bits, seed 0.
    pub digest: u128,
}

/// What a target needs to become a copy at a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeedManifest {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Of the source.
    pub database: DatabaseId,
    /// Of the source.
    pub stream: StreamId,
    /// The copy that was read.
    pub source: CopyId,
    /// Where the store of the checkpoint stands, or an index alone; the log goes on behind it.
    pub at: LogEnd,
    /// Epochs of the log up to there.
    pub epochs: EpochTable,
    /// The files; none twice.
    pub files: Vec<SeedFile>,
}

impl SeedManifest {
    /// Length of all files together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Length of the files of one directory.
    #[must_use]
    pub fn bytes_of(&self, place: SeedPlace) -> u64 {
        self.files.iter().filter(|file| file.place == place).map(|file| file.bytes).sum()
    }

    /// The directories that a target makes of it: those of a copy, with or without a content index,
    /// or an index alone. A store always has files, a log may have none.
    #[must_use]
    pub fn places(&self) -> Vec<SeedPlace> {
        let has = |place| self.files.iter().any(|file| file.place == place);
        let copy =
            if has(SeedPlace::Store) { vec![SeedPlace::Store, SeedPlace::Log] } else { vec![] };
        let index = has(SeedPlace::Catalog).then_some(SeedPlace::Catalog);
        copy.into_iter().chain(index).collect()
    }

    /// The bytes, as they travel and as they are kept beside the files.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(128 + 64 * self.files.len());
        for id in [
            self.checkpoint.into_bytes(),
            self.database.into_bytes(),
            self.stream.into_bytes(),
            self.source.into_bytes(),
        ] {
            body.extend_from_slice(&id);
        }
        put_epoch(&mut body, self.at.epoch);
        put_position(&mut body, self.at.position);
        put_varint(&mut body, self.epochs.rows().len() as u64);
        for row in self.epochs.rows() {
            put_epoch(&mut body, row.epoch);
            put_position(&mut body, row.previous_end);
            body.extend_from_slice(&row.chain.to_le_bytes());
        }
        put_varint(&mut body, self.files.len() as u64);
        for file in &self.files {
            body.push(match file.place {
                SeedPlace::Store => 0,
                SeedPlace::Log => 1,
                SeedPlace::Catalog => 2,
            });
            put_varint(&mut body, file.name.len() as u64);
            body.extend_from_slice(file.name.as_bytes());
            body.extend_from_slice(&file.bytes.to_le_bytes());
            body.extend_from_slice(&file.digest.to_le_bytes());
        }
        let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        let crc = checksum(&out, &body);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`FormatError::NewerFormat`] for one of a later version whose checksum matches; otherwise
    /// what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != MAGIC {
            return Err(FormatError::Magic);
        }
        let (version, length, crc) = (reader.u32()?, reader.u32()? as usize, reader.u32()?);
        let body = reader.take(length)?;
        if checksum(bytes.get(..CRC_AT).unwrap_or_default(), body) != crc {
            return Err(FormatError::HeaderChecksum);
        }
        if version != FORMAT_VERSION {
            return Err(FormatError::NewerFormat(version));
        }
        if reader.left() > 0 {
            return Err(FormatError::Malformed("bytes behind a manifest"));
        }
        decode_body(body)
    }
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(body);
    hasher.finalize()
}

fn decode_body(body: &[u8]) -> Result<SeedManifest, FormatError> {
    let mut reader = Reader::new(body);
    let checkpoint = CheckpointId::from_bytes(reader.array()?);
    let database = DatabaseId::from_bytes(reader.array()?);
    let stream = StreamId::from_bytes(reader.array()?);
    let source = CopyId::from_bytes(reader.array()?);
    let at = LogEnd { epoch: reader.epoch()?, position: reader.position()? };
    let mut rows = Vec::new();
    for _ in 0..reader.varint()? {
        rows.push(EpochStart {
            epoch: reader.epoch()?,
            previous_end: reader.position()?,
            chain: reader.u32()?,
        });
    }
    let epochs = EpochTable::from_rows(rows)
        .map_err(|_| FormatError::Malformed("an epoch table that does not rise"))?;
    let mut files: Vec<SeedFile> = Vec::new();
    for _ in 0..reader.varint()? {
        files.push(decode_file(&mut reader)?);
    }
    if reader.left() > 0 {
        return Err(FormatError::Malformed("bytes behind a manifest"));
    }
    let mut names: Vec<_> = files.iter().map(|file| (file.place, &file.name)).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(FormatError::Malformed("a file that is named twice"));
    }
    Ok(SeedManifest { checkpoint, database, stream, source, at, epochs, files })
}

fn decode_file(reader: &mut Reader<'_>) -> Result<SeedFile, FormatError> {
    let place = match reader.u8()? {
        0 => SeedPlace::Store,
        1 => SeedPlace::Log,
        2 => SeedPlace::Catalog,
        _ => return Err(FormatError::Malformed("a file without a place")),
    };
    let length = reader.varint_length()?;
    let name = std::str::from_utf8(reader.take(length)?);
    let name = name.ok().filter(|name| is_plain(name));
    let name = name.ok_or(FormatError::Malformed("a name that is no name of a file"))?.to_owned();
    let (bytes, digest) = (reader.u64()?, u128::from_le_bytes(reader.array()?));
    Ok(SeedFile { place, name, bytes, digest })
}

/// Whether a name stays in its directory: letters, digits and few signs, no leading dot.
fn is_plain(name: &str) -> bool {
    let sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.chars().all(sign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_types::{Epoch, Position};

    fn manifest(names: &[&str]) -> SeedManifest {
        let file = |name: &&str| SeedFile {
            place: SeedPlace::Store,
            name: (*name).to_owned(),
            bytes: 10,
            digest: 7,
        };
        SeedManifest {
            checkpoint: CheckpointId::from_u128(1),
            database: DatabaseId::from_u128(2),
            stream: StreamId::from_u128(3),
            source: CopyId::from_u128(4),
            at: LogEnd { epoch: Epoch::new(0, 1), position: Position::new(3, 900) },
            epochs: EpochTable::new(),
            files: names.iter().map(file).collect(),
        }
    }

    #[test]
    fn names_never_lead_out_of_their_directory() {
        for good in ["000012.sst", "CURRENT", "MANIFEST-000005", "0000000000000003.klog"] {
            let manifest = manifest(&[good]);
            assert_eq!(SeedManifest::decode(&manifest.encode()), Ok(manifest), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "/etc", "a\\b", ".hidden", "a b", "a\0"] {
            let decoded = SeedManifest::decode(&manifest(&[bad]).encode());
            assert!(matches!(decoded, Err(FormatError::Malformed(_))), "{bad:?}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        assert!(SeedManifest::decode(&manifest(&[&long]).encode()).is_err());
        assert!(SeedManifest::decode(&manifest(&["a", "b", "a"]).encode()).is_err(), "twice");
    }

    /// F53: what a target makes of a checkpoint follows from its files.
    #[test]
    fn directories_follow_from_the_files() {
        use SeedPlace::{Catalog, Log, Store};
        let of = |places: &[SeedPlace]| {
            let files = places.iter().map(|place| {
                let name = "meta.json".to_owned();
                SeedFile { place: *place, name, bytes: 7, digest: 0 }
            });
            SeedManifest { files: files.collect(), ..manifest(&[]) }
        };
        for (files, places) in [
            (&[Store][..], &[Store, Log][..]),
            (&[Store, Log], &[Store, Log]),
            (&[Log, Store, Catalog], &[Store, Log, Catalog]),
            (&[Catalog], &[Catalog]),
        ] {
            let manifest = of(files);
            assert_eq!(SeedManifest::decode(&manifest.encode()).as_ref(), Ok(&manifest));
            assert_eq!(manifest.places(), places);
            assert_eq!(manifest.bytes_of(Catalog), 7 * u64::from(files.contains(&Catalog)));
        }
    }

    #[test]
    fn a_flipped_bit_is_found_and_a_newer_version_is_told_from_damage() {
        let bytes = manifest(&["000012.sst"]).encode();
        for index in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[index] ^= 1;
            assert!(SeedManifest::decode(&rotten).is_err(), "byte {index}");
            assert!(SeedManifest::decode(&bytes[..index]).is_err(), "cut at {index}");
        }
        let mut newer = bytes.clone();
        newer[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
        let crc = checksum(&newer[..CRC_AT], &newer[HEADER_BYTES..]);
        newer[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SeedManifest::decode(&newer), Err(FormatError::NewerFormat(FORMAT_VERSION + 1)));
    }
}
