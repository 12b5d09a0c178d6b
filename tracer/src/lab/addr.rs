//! Addresses as the labs write them: `10.0.0.1/24`, `0a:58:0a:f4:01:00`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::Error;

/// An address with a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    pub ip: IpAddr,
    pub len: u8,
}

impl FromStr for Cidr {
    type Err = Error;

    /// Without `/n` it is a single address.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadSpec(format!("`{text}` is not ADDRESS or ADDRESS/LENGTH"));
        let (ip, len) = text.split_once('/').unwrap_or((text, ""));
        let ip: IpAddr = ip.parse().map_err(|_| bad())?;
        let max = if ip.is_ipv4() { 32 } else { 128 };
        let len = match len {
            "" if !text.contains('/') => max,
            digits => digits.parse().map_err(|_| bad())?,
        };
        if len > max {
            return Err(bad());
        }
        Ok(Self { ip, len })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.len)
    }
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadSpec(format!("`{text}` is not a hardware address"));
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&digits.join(":"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr_reads_both_families_and_refuses_long_prefixes() {
        let cidr: Cidr = "10.244.1.2/24".parse().unwrap();
        assert_eq!((cidr.ip.to_string(), cidr.len), ("10.244.1.2".into(), 24));
        assert_eq!("10.0.0.1".parse::<Cidr>().unwrap().len, 32);
        assert_eq!("fd00::1/64".parse::<Cidr>().unwrap().to_string(), "fd00::1/64");
        for bad in ["", "10.0.0.1/", "10.0.0.1/33", "10.0.0/24", "fd00::/129", "x/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn mac_reads_what_it_writes() {
        let mac: Mac = "0a:58:0a:f4:01:00".parse().unwrap();
        assert_eq!(mac.to_string(), "0a:58:0a:f4:01:00");
        for bad in ["", "0a:58", "0a:58:0a:f4:01:00:00", "0a:58:0a:f4:01:0", "zz:58:0a:f4:01:00"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
