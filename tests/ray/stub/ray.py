# As much of Ray as the launcher uses, in its own process: an actor is a thread, and its room is counted.
import collections, os, queue, signal, subprocess, threading, time
from concurrent.futures import Future

__version__ = "0.0.0"
room = int(os.environ.get("STUB_ROOM", "64"))
started = {}  # by thread: the process that it has started last
changed = threading.Condition()
real = subprocess.Popen


def popen(*arguments, **more):
    child = real(*arguments, **more)
    started[threading.get_ident()] = child
    return child


subprocess.Popen = popen


def init(**options):
    print("Ray prints on standard output", flush=True)
    failure = os.environ.get("STUB_FAILS")
    if failure == "connection":
        raise ConnectionError("Could not find any running Ray instance.")
    if failure == "version":
        raise RuntimeError("Version mismatch: the cluster was started with 9.9.9")
    if failure == "hangs":
        time.sleep(1000)


def nodes():
    return [{"Alive": True, "Resources": {"CPU": 2.0, "memory": 4e9}}, {"Alive": False, "Resources": {"CPU": 64.0}}]


class Actor:
    def __init__(self, cls, options):
        self.calls, self.options, self.dead = queue.Queue(), options, threading.Event()
        self.thread = threading.Thread(target=self.live, args=(cls,), daemon=True)
        self.thread.start()

    def live(self, cls):
        global room
        cpus = self.options["num_cpus"]
        with changed:
            changed.wait_for(lambda: room >= cpus or self.dead.is_set())
            if self.dead.is_set():
                return
            room -= cpus
        instance = cls()
        while not self.dead.is_set():
            try:
                future, name, arguments = self.calls.get(timeout=0.01)
                future.set_result(getattr(instance, name)(*arguments))
            except queue.Empty:
                pass
            except Exception as error:
                future.set_exception(error)
        with changed:
            room += cpus
            changed.notify_all()

    def __getattr__(self, name):
        return Method(self, name)


class Method:
    def __init__(self, actor, name):
        self.actor, self.name = actor, name

    def remote(self, *arguments):
        future = Future()
        self.actor.calls.put((future, self.name, arguments))
        return future


class Remote:
    def __init__(self, cls, options):
        self.cls, self.given = cls, options

    def options(self, **options):
        if options.get("num_cpus") == 99:
            raise ValueError("there is no such number of CPUs")
        return Remote(self.cls, {**self.given, **options})

    def remote(self):
        return Actor(self.cls, self.given)


def remote(**options):
    return lambda cls: Remote(cls, options)


def wait(refs, timeout):
    until = time.time() + timeout
    while not any(ref.done() for ref in refs) and time.time() < until:
        time.sleep(0.005)
    return [ref for ref in refs if ref.done()][:1], []


def get(ref):
    return ref.result()


def kill(actor, no_restart):
    actor.dead.set()
    with changed:
        changed.notify_all()
    child = started.get(actor.thread.ident)
    if child is not None:
        child.send_signal(signal.SIGKILL)


def get_runtime_context():
    return collections.namedtuple("Context", "get_node_id")(lambda: "a node")


util = collections.namedtuple("Util", "get_node_ip_address")(lambda: "127.0.0.1")
