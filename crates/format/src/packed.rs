//! Bodies of messages between members, compressed for the wire and nowhere else.
//!
//! Checksums and digests are of the bytes as they lie in files: whoever receives a packed body
//! unpacks it first and checks then what it would have checked anyway.

use bytes::Bytes;

/// Smaller bodies are not worth it.
const WORTH_BYTES: usize = 512;

/// A packed body is not what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a packed body does not unpack to {0} bytes")]
pub struct UnpackError(pub u32);

/// The body as it is sent, and the length of what was packed; 0 for one that is sent as it is.
#[must_use]
pub fn pack(body: Bytes) -> (Bytes, u32) {
    let Ok(length) = u32::try_from(body.len()) else { return (body, 0) };
    if body.len() < WORTH_BYTES {
        return (body, 0);
    }
    let packed = lz4_flex::block::compress(&body);
    // What does not become smaller by a sixteenth is noise, and costs the other end time.
    if packed.len() + body.len() / 16 >= body.len() { (body, 0) } else { (packed.into(), length) }
}

/// What was packed.
///
/// # Errors
/// The body is damaged, or larger than `bytes_max`.
pub fn unpack(body: Bytes, packed_from: u32, bytes_max: usize) -> Result<Bytes, UnpackError> {
    if packed_from == 0 {
        return Ok(body);
    }
    let wrong = UnpackError(packed_from);
    let length = usize::try_from(packed_from).map_err(|_| wrong)?;
    if length > bytes_max {
        return Err(wrong);
    }
    let unpacked = lz4_flex::block::decompress(&body, length).map_err(|_| wrong)?;
    if unpacked.len() == length { Ok(unpacked.into()) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1024 * 1024;

    #[test]
    fn what_is_packed_comes_back_and_noise_is_left_alone() {
        let text = Bytes::from(b"the same again and again; ".repeat(100));
        let (packed, length) = pack(text.clone());
        assert!(packed.len() < text.len() / 4 && length as usize == text.len());
        assert_eq!(unpack(packed.clone(), length, MAX), Ok(text.clone()));
        assert_eq!(unpack(packed.clone(), length, text.len() - 1), Err(UnpackError(length)));
        assert!(unpack(packed.clone(), length - 1, MAX).is_err());
        assert!(unpack(packed.slice(..packed.len() / 2), length, MAX).is_err());
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let noise: Bytes = noise.take(4096).collect();
        assert_eq!(pack(noise.clone()), (noise, 0));
        let short = Bytes::from_static(b"aaaaaaaaaaaaaaaaaaaaaaaaaa");
        assert_eq!(pack(short.clone()), (short.clone(), 0));
        assert_eq!(unpack(short.clone(), 0, 1), Ok(short), "nothing is copied");
    }
}
