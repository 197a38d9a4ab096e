# Milters that answer what they are told, byte for byte: arguments behind the first are PORT|ANSWERS, where
# ANSWERS is LETTER=REPLY,REPLY;… . A reply is a packet; "close" ends the connection, "huge" promises two gigabytes.
import socket, struct, sys, threading

def listen(port):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", port))
    s.listen(50)
    return s

def serve(s, answers):
    def take(n):
        data = b""
        while len(data) < n:
            more = s.recv(n - len(data))
            if not more:
                raise EOFError
            data += more
        return data
    def give(data):
        s.sendall(struct.pack(">I", len(data)) + data)
    try:
        while True:
            packet = take(struct.unpack(">I", take(4))[0])
            letter = packet[:1].decode()
            if letter in answers:
                for reply in answers[letter].split(","):
                    if reply == "close":
                        s.close()
                        return
                    if reply == "huge":
                        s.sendall(b"\x7f\xff\xff\xffc")
                    else:
                        give(reply.encode().decode("unicode_escape").encode("latin1"))
            elif letter == "O":
                give(b"O" + struct.pack(">III", 6, 0x1ff, 0))
            elif letter == "Q":
                s.close()
                return
            elif letter not in "DA":
                give(b"c")
    except (EOFError, OSError):
        s.close()

def accept(listener, answers):
    while True:
        s, _ = listener.accept()
        threading.Thread(target=serve, args=(s, answers), daemon=True).start()

for argument in sys.argv[2:]:
    port, answers = argument.split("|", 1)
    answers = dict(answer.split("=", 1) for answer in answers.split(";") if answer)
    threading.Thread(target=accept, args=(listen(int(port)), answers), daemon=True).start()
# What is first in the list of arguments is listened to last: then all are there.
accept(listen(int(sys.argv[1].split(":")[1].split("@")[0])), {})
