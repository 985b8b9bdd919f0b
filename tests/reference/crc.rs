//! CRC-32/ISO-HDLC, one byte at a time.

/// The CRC of `bytes` as if bytes with the CRC `salt` had gone before them. Salt 0 is the plain CRC.
pub fn salted(salt: u32, bytes: &[u8]) -> u32 {
    let table = table();
    !bytes.iter().fold(!salt, |state, byte| table[usize::from(state as u8 ^ byte)] ^ (state >> 8))
}

/// The check of a word: the salted CRC of its value, and its complement.
pub fn check(salt: u32, value: u64) -> u64 {
    let crc = salted(salt, &value.to_le_bytes());
    u64::from(crc) | (u64::from(!crc) << 32)
}

fn table() -> &'static [u32; 256] {
    static TABLE: [u32; 256] = filled();
    &TABLE
}

const fn filled() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = one(byte as u32);
        byte += 1;
    }
    table
}

const fn one(mut state: u32) -> u32 {
    let mut bit = 0;
    while bit < 8 {
        state = if state & 1 == 1 { (state >> 1) ^ 0xEDB8_8320 } else { state >> 1 };
        bit += 1;
    }
    state
}
