use pkttrace::bpf::*;
use pkttrace::kernel::*;
use tracer_common::*;
use tracer_common::filter::terms;
fn main() {
    let t=std::time::Instant::now();
    let btf = btf::KernelBtf::read(std::path::Path::new(btf::VMLINUX)).unwrap();
    eprintln!("btf {:?}", t.elapsed());
    let offsets = offsets::find(&btf).unwrap();
    eprintln!("{offsets:?}");
    let names = names::KernelNames::read(&btf);
    eprintln!("names {:?}", t.elapsed());
    let mut f = Filter::default();
    f.terms = terms::IPV4|terms::ARP|terms::IPV6|terms::REPLIES|terms::VXLAN;
    f.vxlan_ports[0]=8472u16.to_be();
    if let Some(a)=std::env::args().nth(1) { f.terms|=terms::DST; let ip: std::net::Ipv4Addr=a.parse().unwrap(); f.dst.addr[0]=u32::from_ne_bytes(ip.octets()); f.dst.mask[0]=!0; }
    let mut side = KernelSide::load(LoadOptions{filter:f,offsets,ring_bytes:16<<20,max_journeys:0,backends:Backends{tp:true,nf:true,tc:false,cg:true},debug:false}, &btf).unwrap();
    eprintln!("loaded {:?}", t.elapsed());
    for e in std::fs::read_dir("/run/netns").into_iter().flatten() { let e=e.unwrap(); if !e.file_name().to_string_lossy().starts_with("raw") {continue;} use std::os::unix::fs::MetadataExt; let inum=std::fs::metadata(e.path()).unwrap().ino() as u32;
        eprintln!("{:?}={inum}", e.file_name());
        side.attach_netns(&pkttrace::net::Netns{inum, path:e.path(), ..Default::default()}); }
    for p in side.probes() { eprintln!("{p:?}"); }
    eprintln!("ready {:?}", t.elapsed());
    let end = std::time::Instant::now()+std::time::Duration::from_secs(std::env::args().nth(2).map_or(5,|s|s.parse().unwrap()));
    while std::time::Instant::now()<end {
        side.ring().drain(100000, |b| {
            let h: event::EventHeader = unsafe{std::ptr::read_unaligned(b.as_ptr().cast())};
            let p = Probe::from_u8(h.probe).unwrap();
            let d = Detail::read(p, b[64..96].try_into().unwrap());
            let mut extra=String::new();
            match d { Detail::Device(d)=>extra=format!("{}", String::from_utf8_lossy(&d.name).trim_matches('\0')), Detail::Free(d)=>extra=format!("{} {:?}", names.drop_reason(d.reason), names.function(d.location)), Detail::Nf(n)=>extra=format!("hook{} in{} out{} gw{:?}",n.hook,n.in_ifindex,n.out_ifindex,&n.gw[..4]), Detail::Fib(n)=>extra=format!("{n:?}"), _=>{} }
            if b.len()>96 { let s=&b[96..]; extra+=&format!(" {:?}->{:?} p{} ", &s[12..16],&s[16..20],s[9]); }
            println!("{:x}.{} {} {:?} ns{} if{} len{} fl{:x} ct{:x} {extra}", h.journey,h.seq,h.ktime_ns/1000,p,h.netns,h.ifindex,h.len,h.flags,h.ct);
        });
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    eprintln!("{:?}", side.counters());
}
