# The pilot on Ray (docs/book/src/ray.md): runs on a node of the cluster, and asks Ray for one actor for each worker, which runs the worker's
# process as its child. Orders come as lines of JSON on standard input, events go to standard output. The end of the input is the end of
# this process, with which Ray ends its actors, and the kernel their children.
import collections, ctypes, json, os, signal, socket, subprocess, sys, threading

out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Ray prints on standard output whatever it is told.
lock = threading.Lock()


def say(event, **more):
    with lock:
        print(json.dumps({"event": event, **more}), file=out, flush=True)


def fail(kind, why):
    say("failed", kind=kind, why=str(why).strip()[:2000] or repr(why)[:2000])
    os._exit(1)


# A terminal's interrupt is for the program that this one is of.
signal.signal(signal.SIGINT, signal.SIG_IGN)
address = sys.argv[1]
try:
    import ray
except Exception as error:
    fail("no_ray", error)


def silence(at):
    host, _, port = at.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        return error


if address != "auto" and (error := silence(address)):
    fail("not_reachable", error)
try:
    ray.init(address=address, namespace="regatta", log_to_driver=False, logging_level="error")
except ConnectionError as error:
    # Why it could not connect, as for want of a token, stands only in what lies behind the error.
    behind = [line for line in str(error.__cause__).splitlines() if line.startswith("ray.exceptions.")]
    at = address if address != "auto" else str(error).rpartition(" at ")[2]
    if not silence(at):
        fail("refused", "; ".join([f"{error}, though its port answers", *behind[-1:]]))
    fail("no_cluster" if address == "auto" else "not_reachable", error)
except Exception as error:
    fail("refused", error)


# A worker's token is used up with it: who wants another worker asks for another place.
@ray.remote(max_restarts=0)
class Berth:
    def place(self):
        return {"node": ray.get_runtime_context().get_node_id()}

    def run(self, argv, env):
        # Whoever ends this actor ends its child. The kernel watches the thread that has started it: this one, which waits for it.
        def ends_with_this():
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)

        child = subprocess.Popen(
            argv, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", preexec_fn=ends_with_this)
        last = collections.deque(maxlen=20)
        for line in child.stdout:
            last.append(line.rstrip()[:500])
            print(line, end="", flush=True)  # into Ray's log of this actor
        status = child.wait()
        how = f"signal: {-status}" if status < 0 else f"exit status: {status}"
        return {"why": f"its process ended ({how})", "last": list(last)}


berths, asked, more = {}, {}, threading.Event()


def end(berth):
    # One that has returned keeps its resources until it is killed, and one that waits for room is wanted until then.
    actor = berths.pop(berth, None)
    if actor is not None:
        ray.kill(actor, no_restart=True)


def watch():
    while True:
        if not asked:
            more.wait()
            more.clear()
            continue
        for ref in ray.wait(list(asked), timeout=0.2)[0]:
            berth, event = asked.pop(ref)
            try:
                told = ray.get(ref)
            except Exception as error:
                event, told = "ended", {"why": f"{type(error).__name__}: {error}"[:2000]}
            # Of one that was ended nobody wants to hear.
            if berth in berths:
                if event == "ended":
                    end(berth)
                say(event, berth=berth, **told)


def takes(order):
    berth = order.get("berth")
    if order["do"] == "ping":
        say("pong")
    elif order["do"] == "place":
        # It waits for room as long as it takes: that is the demand which Ray's autoscaler sees.
        berths[berth] = Berth.options(**order["options"]).remote()
        asked[berths[berth].place.remote()] = berth, "placed"
        more.set()
    elif order["do"] == "run" and berth in berths:
        asked[berths[berth].run.remote(order["argv"], order["env"])] = berth, "ended"
        more.set()
    elif order["do"] == "end":
        end(berth)


def machine(resources):
    return {"cpus": resources.get("CPU", 0), "gpus": resources.get("GPU", 0), "memory": int(resources.get("memory", 0))}


threading.Thread(target=watch, daemon=True).start()
nodes = [machine(node["Resources"]) for node in ray.nodes() if node["Alive"]]
say("ready", host=ray.util.get_node_ip_address(), nodes=nodes, ray=ray.__version__)
for line in sys.stdin:
    order = json.loads(line)
    try:
        takes(order)
    except Exception as error:
        # As of options that Ray does not take.
        if order.get("berth") is None:
            fail("refused", error)
        berths.pop(order["berth"], None)
        say("ended", berth=order["berth"], why=f"{type(error).__name__}: {error}"[:2000])
os._exit(0)
