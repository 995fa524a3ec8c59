//! A serializer around another, which counts what the value will ask its receiver for.

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::bounds::{POINTER, Scales};

/// A value, and the scales that it is written on.
pub(super) struct Weighed<'s, T: ?Sized> {
    value: &'s T,
    scales: &'s Scales,
}

impl<'s, T: Serialize + ?Sized> Weighed<'s, T> {
    pub(super) fn new(value: &'s T, scales: &'s Scales) -> Self {
        Self { value, scales }
    }

    /// A part of another value.
    fn part(value: &'s T, scales: &'s Scales) -> Self {
        scales.write_part(size_of_val(value));
        Self { value, scales }
    }

    /// An element, a key or a value.
    fn element(value: &'s T, scales: &'s Scales) -> Self {
        scales.write_element(size_of_val(value));
        Self { value, scales }
    }
}

impl<T: Serialize + ?Sized> Serialize for Weighed<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Weighing { scales: self.scales, to })
    }
}

/// What a value is written to.
struct Weighing<'s, S> {
    scales: &'s Scales,
    to: S,
}

impl<'s, S: Serializer> Weighing<'s, S> {
    /// Writes a value that is one part.
    fn whole(self, write: impl FnOnce(S) -> Result<S::Ok, S::Error>) -> Result<S::Ok, S::Error> {
        self.scales.enter().map_err(S::Error::custom)?;
        let written = write(self.to)?;
        self.scales.leave();
        Ok(written)
    }

    /// Begins a value of several.
    fn parts<P>(self, begin: impl FnOnce(S) -> Result<P, S::Error>) -> Result<Weighing<'s, P>, S::Error> {
        self.scales.enter().map_err(S::Error::custom)?;
        Ok(Weighing { scales: self.scales, to: begin(self.to)? })
    }
}

/// In memory, what has a length: a vector or a text, and a map.
const VECTOR: usize = size_of::<Vec<u8>>();
const MAP: usize = size_of::<std::collections::HashMap<u8, u8>>();

macro_rules! plain {
    ($($method:ident($type:ty))*) => {$(
        fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            if size_of::<$type>() > POINTER {
                self.scales.hold(size_of::<$type>());
            }
            self.to.$method(value)
        }
    )*};
}

impl<'s, S: Serializer> Serializer for Weighing<'s, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Weighing<'s, S::SerializeSeq>;
    type SerializeTuple = Weighing<'s, S::SerializeTuple>;
    type SerializeTupleStruct = Weighing<'s, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Weighing<'s, S::SerializeTupleVariant>;
    type SerializeMap = Weighing<'s, S::SerializeMap>;
    type SerializeStruct = Weighing<'s, S::SerializeStruct>;
    type SerializeStructVariant = Weighing<'s, S::SerializeStructVariant>;

    plain! {
        serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_i128(i128)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_u128(u128) serialize_f32(f32)
        serialize_f64(f64) serialize_char(char)
    }

    fn serialize_str(self, value: &str) -> Result<S::Ok, S::Error> {
        self.scales.hold(VECTOR);
        self.to.serialize_str(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<S::Ok, S::Error> {
        self.scales.hold(VECTOR);
        self.to.serialize_bytes(value)
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.scales.write_variant();
        self.whole(S::serialize_none)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let part = Weighed::part(value, self.scales);
        self.scales.hold(size_of::<u128>()); // its tag, aligned
        self.whole(|to| to.serialize_some(&part))
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.to.serialize_unit()
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.to.serialize_unit_struct(name)
    }

    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        self.scales.write_variant();
        self.whole(|to| to.serialize_unit_variant(name, index, variant))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        let part = Weighed::part(value, self.scales);
        self.whole(|to| to.serialize_newtype_struct(name, &part))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.scales.write_variant();
        let part = Weighed::part(value, self.scales);
        self.whole(|to| to.serialize_newtype_variant(name, index, variant, &part))
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.scales.hold(VECTOR);
        self.scales.write_elements(len.unwrap_or(0)).map_err(S::Error::custom)?;
        self.parts(|to| to.serialize_seq(len))
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.parts(|to| to.serialize_tuple(len))
    }

    fn serialize_tuple_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.parts(|to| to.serialize_tuple_struct(name, len))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.scales.write_variant();
        self.parts(|to| to.serialize_tuple_variant(name, index, variant, len))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.scales.hold(MAP);
        self.scales.write_elements(len.unwrap_or(0).saturating_mul(2)).map_err(S::Error::custom)?;
        self.parts(|to| to.serialize_map(len))
    }

    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, S::Error> {
        self.parts(|to| to.serialize_struct(name, len))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.scales.write_variant();
        self.parts(|to| to.serialize_struct_variant(name, index, variant, len))
    }

    fn is_human_readable(&self) -> bool {
        self.to.is_human_readable()
    }
}

macro_rules! parts {
    ($($parts:ident: $($part:ident $method:ident($($key:ident: $type:ty)?))*;)*) => {$(
        impl<S: $parts> $parts for Weighing<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            $(fn $method<T: Serialize + ?Sized>(&mut self, $($key: $type,)? value: &T) -> Result<(), S::Error> {
                self.to.$method($($key,)? &Weighed::$part(value, self.scales))
            })*

            fn end(self) -> Result<S::Ok, S::Error> {
                self.scales.leave();
                self.to.end()
            }
        }
    )*};
}

parts! {
    SerializeSeq: element serialize_element();
    SerializeTuple: part serialize_element();
    SerializeTupleStruct: part serialize_field();
    SerializeTupleVariant: part serialize_field();
    SerializeMap: element serialize_key() element serialize_value();
    SerializeStruct: part serialize_field(key: &'static str);
    SerializeStructVariant: part serialize_field(key: &'static str);
}
