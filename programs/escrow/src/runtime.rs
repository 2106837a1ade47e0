//! The runtime's syscalls that this program uses, and what the bare BPF target lacks.
//!
//! On the host (unit tests only) they do nothing: no instruction runs there.

use pinocchio::Address;

#[cfg(any(target_os = "solana", target_arch = "bpf"))]
use pinocchio::syscalls;

/// Logs `bytes` as one data entry, which is how Anchor clients read events.
pub fn log_data(bytes: &[u8]) {
    let entries: [&[u8]; 1] = [bytes];
    #[cfg(any(target_os = "solana", target_arch = "bpf"))]
    // SAFETY: a slice of slices is laid out as the (pointer, length) pairs that the syscall reads.
    unsafe {
        syscalls::sol_log_data(entries.as_ptr().cast::<u8>(), entries.len() as u64)
    };
    #[cfg(not(any(target_os = "solana", target_arch = "bpf")))]
    core::hint::black_box(entries);
}

/// SHA-256 of the concatenation of `parts`.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = [0; 32];
    #[cfg(any(target_os = "solana", target_arch = "bpf"))]
    // SAFETY: as in `log_data`; `hash` has the 32 bytes that the syscall writes.
    unsafe {
        syscalls::sol_sha256(parts.as_ptr().cast::<u8>(), parts.len() as u64, hash.as_mut_ptr());
    }
    #[cfg(not(any(target_os = "solana", target_arch = "bpf")))]
    core::hint::black_box((parts, &mut hash));
    hash
}

/// The canonical program address for `seeds`, and its bump. Costs 1,500 compute units a try.
pub fn find_address(seeds: &[&[u8]], program: &Address) -> (Address, u8) {
    #[cfg(any(target_os = "solana", target_arch = "bpf"))]
    return Address::find_program_address(seeds, program);
    #[cfg(not(any(target_os = "solana", target_arch = "bpf")))]
    unreachable!("{} seeds of {:?}: runs on chain only", seeds.len(), program.as_array())
}

/// The first 17 bytes of the Rent sysvar: lamports per byte, exemption threshold (f64), burn percent.
pub fn rent_bytes() -> Option<[u8; 17]> {
    let mut bytes = [0; 17];
    #[cfg(any(target_os = "solana", target_arch = "bpf"))]
    // SAFETY: `bytes` has the 17 bytes that are asked for.
    let status = unsafe {
        syscalls::sol_get_sysvar(
            pinocchio::sysvars::rent::RENT_ID.as_array().as_ptr(),
            bytes.as_mut_ptr(),
            0,
            bytes.len() as u64,
        )
    };
    #[cfg(not(any(target_os = "solana", target_arch = "bpf")))]
    let status = core::hint::black_box(bytes.as_mut_ptr()) as u64;
    (status == 0).then_some(bytes)
}

/// The C memory functions that compiled code calls. The standard Solana target brings its own; the bare one does not.
#[cfg(target_arch = "bpf")]
mod memory {
    use super::syscalls;

    // SAFETY (all four): called by compiled code under C's own contract, which is the syscalls' too.
    #[no_mangle]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
        syscalls::sol_memcpy_(to, from, n as u64);
        to
    }

    #[no_mangle]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
        syscalls::sol_memmove_(to, from, n as u64);
        to
    }

    #[no_mangle]
    unsafe extern "C" fn memset(to: *mut u8, value: i32, n: usize) -> *mut u8 {
        syscalls::sol_memset_(to, value as u8, n as u64);
        to
    }

    #[no_mangle]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
        let mut result = 0;
        syscalls::sol_memcmp_(a, b, n as u64, &mut result);
        result
    }
}
