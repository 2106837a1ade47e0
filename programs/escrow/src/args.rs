//! Reading Borsh arguments: fixed-size little-endian fields in order, then nothing.
//!
//! Every malformed input is `InvalidData`: too short, trailing bytes, an option tag that is neither 0 nor 1, an empty
//! vector, or a vector whose length does not match the bytes that follow.

use core::marker::PhantomData;

use pinocchio::{error::ProgramError, Address, ProgramResult};

use crate::error::{require, Error};

/// A value with one fixed-size encoding.
pub trait Field: Sized {
    const SIZE: usize;
    /// `bytes` has exactly `SIZE` bytes.
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! integer {
    ($($type:ty)*) => {$(
        impl Field for $type {
            const SIZE: usize = size_of::<$type>();
            #[inline(always)]
            fn get(bytes: &[u8]) -> Self {
                let mut value = [0; size_of::<$type>()];
                value.copy_from_slice(bytes);
                <$type>::from_le_bytes(value)
            }
        }
    )*};
}
integer!(u8 u16 u32 u64 i64);

impl<const N: usize> Field for [u8; N] {
    const SIZE: usize = N;
    #[inline(always)]
    fn get(bytes: &[u8]) -> Self {
        let mut value = [0; N];
        value.copy_from_slice(bytes);
        value
    }
}

impl Field for Address {
    const SIZE: usize = 32;
    #[inline(always)]
    fn get(bytes: &[u8]) -> Self {
        Address::new_from_array(<[u8; 32]>::get(bytes))
    }
}

macro_rules! argument_struct {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* }) => {
        $(#[$doc])*
        pub struct $name { $(pub $field: $type),* }
        impl Field for $name {
            const SIZE: usize = 0 $(+ <$type as Field>::SIZE)*;
            #[inline(always)]
            fn get(bytes: &[u8]) -> Self {
                let mut rest = bytes;
                $(
                    let (head, tail) = rest.split_at(<$type as Field>::SIZE);
                    let $field = <$type as Field>::get(head);
                    rest = tail;
                )*
                let _ = rest;
                Self { $($field),* }
            }
        }
    };
}
argument_struct!(
    /// A new seat: whose it is, what it may earn, and the bond it asks for.
    SeatInit { wallet: Address, cap: u64, bond: u64 }
);
argument_struct!(
    /// A seat and its new cap, or its cumulative award.
    SeatAmount { seat: u16, amount: u64 }
);
argument_struct!(
    /// A seat and the bump of its wallet's associated token account.
    SeatBump { seat: u16, bump: u8 }
);

/// A non-empty vector, still in its bytes.
pub struct List<'a, T> {
    bytes: &'a [u8],
    item: PhantomData<T>,
}

impl<'a, T: Field + 'a> List<'a, T> {
    pub fn count(&self) -> usize {
        self.bytes.len() / T::SIZE
    }

    pub fn iter(&self) -> impl Iterator<Item = T> + 'a {
        self.bytes.chunks_exact(T::SIZE).map(T::get)
    }
}

/// The arguments that are still unread.
pub struct Args<'a>(pub &'a [u8]);

impl<'a> Args<'a> {
    #[inline(always)]
    pub fn get<T: Field>(&mut self) -> Result<T, ProgramError> {
        let (head, tail) = self.0.split_at_checked(T::SIZE).ok_or(ProgramError::from(Error::InvalidData))?;
        self.0 = tail;
        Ok(T::get(head))
    }

    #[inline(always)]
    pub fn option<T: Field>(&mut self) -> Result<Option<T>, ProgramError> {
        match self.get::<u8>()? {
            0 => Ok(None),
            1 => Ok(Some(self.get()?)),
            _ => Err(Error::InvalidData.into()),
        }
    }

    /// The rest of the data as one non-empty vector; nothing may follow it.
    #[inline(always)]
    pub fn last_list<T: Field>(mut self) -> Result<List<'a, T>, ProgramError> {
        let count = self.get::<u32>()? as usize;
        let fits = self.0.len() % T::SIZE == 0 && self.0.len() / T::SIZE == count;
        require(fits && count > 0, Error::InvalidData)?;
        Ok(List { bytes: self.0, item: PhantomData })
    }

    /// Nothing may be left.
    #[inline(always)]
    pub fn end(self) -> ProgramResult {
        require(self.0.is_empty(), Error::InvalidData)
    }
}
