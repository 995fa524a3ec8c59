//! A deserializer around another, which counts what the value asks for.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::bounds::Scales;

/// Reads a value, or a part of one, on these scales.
pub(super) struct Seed<'s, T> {
    scales: &'s Scales,
    part: T,
}

impl<'s, T> Seed<'s, PhantomData<T>> {
    pub(super) fn new(scales: &'s Scales) -> Self {
        Self { scales, part: PhantomData }
    }
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<'_, T> {
    type Value = T::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<T::Value, D::Error> {
        self.part.deserialize(Bounded { scales: self.scales, from })
    }
}

/// What a value is read from.
struct Bounded<'s, D> {
    scales: &'s Scales,
    from: D,
}

/// What makes a value of that. Its parts are elements if they are `counted`: their number is on the wire.
struct Watched<'s, V> {
    scales: &'s Scales,
    counted: bool,
    visitor: V,
}

impl<'s, D> Bounded<'s, D> {
    fn watch<'de, V: Visitor<'de>>(&self, visitor: V, counted: bool) -> Watched<'s, V> {
        Watched { scales: self.scales, counted, visitor }
    }
}

macro_rules! plain {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.from.$method(visitor)
        }
    )*};
}

macro_rules! holding {
    ($($method:ident($($argument:ident: $type:ty),*) $counted:literal)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            let watched = self.watch(visitor, $counted);
            self.scales.read(size_of::<V::Value>(), || self.from.$method($($argument,)* watched))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Bounded<'_, D> {
    type Error = D::Error;

    plain! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_bytes deserialize_unit
    }

    holding! {
        deserialize_any() true
        deserialize_ignored_any() true
        deserialize_identifier() true
        deserialize_option() false
        deserialize_newtype_struct(name: &'static str) false
        deserialize_seq() true
        deserialize_tuple(len: usize) false
        deserialize_tuple_struct(name: &'static str, len: usize) false
        deserialize_map() true
        deserialize_struct(name: &'static str, fields: &'static [&'static str]) false
        deserialize_enum(name: &'static str, variants: &'static [&'static str]) false
    }

    // Lent from the message, so that a length which was made up makes room for nothing.
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.from.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.from.deserialize_bytes(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.from.deserialize_unit_struct(name, visitor)
    }

    fn is_human_readable(&self) -> bool {
        self.from.is_human_readable()
    }
}

macro_rules! visits {
    ($($method:ident($type:ty))*) => {$(
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Watched<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    // What bincode shows of anything that holds nothing.
    visits! {
        visit_u64(u64) visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
        visit_bytes(&[u8]) visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Bounded { scales: self.scales, from })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Bounded { scales: self.scales, from })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, parts: A) -> Result<V::Value, A::Error> {
        let to_come = self.counted.then(|| parts.size_hint().unwrap_or(0));
        self.visitor.visit_seq(Elements { scales: self.scales, counted: self.counted, to_come, parts })
    }

    fn visit_map<A: MapAccess<'de>>(self, parts: A) -> Result<V::Value, A::Error> {
        let to_come = parts.size_hint().or(Some(0));
        self.visitor.visit_map(Entries { scales: self.scales, keys: to_come, values: to_come, parts })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, parts: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(Variant { scales: self.scales, parts })
    }
}

/// The elements of a sequence, or the parts of a tuple or struct.
struct Elements<'s, A> {
    scales: &'s Scales,
    counted: bool,
    /// Those that are not counted yet.
    to_come: Option<usize>,
    parts: A,
}

/// The entries of a map.
struct Entries<'s, A> {
    scales: &'s Scales,
    /// Those that are not counted yet.
    keys: Option<usize>,
    values: Option<usize>,
    parts: A,
}

/// Counts all that are to come, before the first.
fn count<T, E: Error>(scales: &Scales, to_come: &mut Option<usize>) -> Result<(), E> {
    match to_come.take() {
        Some(count) => scales.read_elements(count, size_of::<T>()).map_err(E::custom),
        None => Ok(()),
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, part: T) -> Result<Option<T::Value>, A::Error> {
        if self.counted {
            count::<T::Value, A::Error>(self.scales, &mut self.to_come)?;
            self.scales.read_element(size_of::<T::Value>());
        }
        self.parts.next_element_seed(Seed { scales: self.scales, part })
    }

    fn size_hint(&self) -> Option<usize> {
        self.parts.size_hint().map(|said| self.scales.room(said))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, part: K) -> Result<Option<K::Value>, A::Error> {
        count::<K::Value, A::Error>(self.scales, &mut self.keys)?;
        self.scales.read_element(size_of::<K::Value>());
        self.parts.next_key_seed(Seed { scales: self.scales, part })
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, part: T) -> Result<T::Value, A::Error> {
        count::<T::Value, A::Error>(self.scales, &mut self.values)?;
        self.scales.read_element(size_of::<T::Value>());
        self.parts.next_value_seed(Seed { scales: self.scales, part })
    }

    fn size_hint(&self) -> Option<usize> {
        self.parts.size_hint().map(|said| self.scales.room(said))
    }
}

/// What an enum holds.
struct Variant<'s, A> {
    scales: &'s Scales,
    parts: A,
}

impl<'s, 'de, A: EnumAccess<'de>> EnumAccess<'de> for Variant<'s, A> {
    type Error = A::Error;
    type Variant = Variant<'s, A::Variant>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self::Variant), A::Error> {
        let (variant, parts) = self.parts.variant_seed(seed)?; // a number
        Ok((variant, Variant { scales: self.scales, parts }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Variant<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.parts.unit_variant()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, part: T) -> Result<T::Value, A::Error> {
        self.parts.newtype_variant_seed(Seed { scales: self.scales, part })
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.parts.tuple_variant(len, Watched { scales: self.scales, counted: false, visitor })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.parts.struct_variant(fields, Watched { scales: self.scales, counted: false, visitor })
    }
}
