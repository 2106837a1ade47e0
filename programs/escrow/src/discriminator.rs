//! Anchor's discriminators, `sha256("<namespace>:<name>")[..8]`, computed by the compiler: no table to mistype.
//!
//! SHA-256 of one block is all that is needed, and it is evaluated at build time only. The published const crates bring a
//! 128-bit length counter, which does not link on this target.

const ROUND_CONSTANTS: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98,
    0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
    0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8,
    0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
    0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819,
    0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
    0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2,
];

const START: [u32; 8] =
    [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];

/// The first eight bytes of SHA-256 of a message of at most 55 bytes.
pub const fn first_eight(message: &[u8]) -> [u8; 8] {
    assert!(message.len() <= 55);
    let mut words = [0u32; 64];
    let mut i = 0;
    while i <= message.len() {
        let byte = if i < message.len() { message[i] } else { 0x80 };
        words[i / 4] |= (byte as u32) << (24 - 8 * (i % 4) as u32);
        i += 1;
    }
    words[15] = (message.len() as u32) << 3;
    i = 16;
    while i < 64 {
        let (a, b) = (words[i - 15], words[i - 2]);
        let s0 = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
        let s1 = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
        words[i] = words[i - 16].wrapping_add(s0).wrapping_add(words[i - 7]).wrapping_add(s1);
        i += 1;
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = START;
    i = 0;
    while i < 64 {
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = (e & f) ^ (!e & g);
        let t1 = h.wrapping_add(s1).wrapping_add(choice).wrapping_add(ROUND_CONSTANTS[i]).wrapping_add(words[i]);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = (a & b) ^ (a & c) ^ (b & c);
        let t2 = s0.wrapping_add(majority);
        (h, g, f, e) = (g, f, e, d.wrapping_add(t1));
        (d, c, b, a) = (c, b, a, t1.wrapping_add(t2));
        i += 1;
    }
    let high = START[0].wrapping_add(a).to_be_bytes();
    let low = START[1].wrapping_add(b).to_be_bytes();
    [high[0], high[1], high[2], high[3], low[0], low[1], low[2], low[3]]
}

/// The discriminator as a constant.
#[macro_export]
macro_rules! discriminator {
    ($namespace:literal, $name:expr) => {{
        const FIRST: [u8; 8] = $crate::discriminator::first_eight(concat!($namespace, ":", $name).as_bytes());
        FIRST
    }};
}

#[cfg(test)]
mod tests {
    #[test]
    fn agrees_with_anchor() {
        // Anchor's well-known discriminator of `global:initialize`.
        assert_eq!(discriminator!("global", "initialize"), [175, 175, 109, 31, 13, 152, 155, 237]);
    }
}
