package firecracker

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/agentkernel/agentkernel/internal/engine/confine"
	"github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"
)

// The test binary is a Firecracker or a jailer when it is called so. What kind of one is in the file "mode" beside it, or when it cannot
// see itself, in the file of the kernel.
func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == program:
		runFake()
	case filepath.Base(os.Args[0]) == jailerProgram:
		os.Exit(runFakeJailer())
	case len(os.Args) > 1 && os.Args[1] == confine.Command:
		os.Exit(confine.Main(os.Args[2:], os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// Modes of the fake.
const (
	modeGood     = "good"           // the guest listens at once, and echoes
	modeLate     = "late"           // the guest refuses once, then listens and knocks
	modeDeaf     = "deaf"           // the guest never listens
	modeOld      = "old"            // is version 1.9.1
	modeOlder    = "older"          // is version 1.15.1
	modeEarly    = "dies early"     // before its socket is there
	modeKilled   = "is killed"      // the same, by a signal
	modeStarting = "dies starting"  // when it has been asked
	modePanics   = "guest panics"   // after the start
	modeFault    = "fault"          // refuses its first request
	modeHalf     = "half an answer" // to its first request, and lives
	modeMute     = "mute"           // never answers
	modePaused   = "paused"         // has not started the guest
	modeShot     = "shot starting"  // ends by SIGKILL when it has been asked
	modeRefusing = "refusing"       // its API socket is there, and nobody listens
	modeSlow     = "slow"           // with its socket and with its answer
	modeBroken   = "broken"         // answers with status 500 and a fault
	modeResets   = "guest resets"   // after the start
	modeFlood    = "flood"          // the guest knocks without end, and sends without end
	modeFull     = "disk full"      // when it saves
	modeDiesSave = "dies saving"    // when half of the state is written
	modeDiesLoad = "dies loading"   // without an answer
	modeTricks   = "tricks"         // what it saves is not what it seems
)

// slowness is a Firecracker's on a busy host.
const slowness = 200 * time.Millisecond

func runFake() {
	f := &fakeFirecracker{}
	if self, err := os.Executable(); err == nil { // there is no /proc in a root directory of its own
		mode, err := os.ReadFile(filepath.Join(filepath.Dir(self), "mode"))
		if err != nil {
			panic(err)
		}
		f.mode = string(mode)
	}
	if slices.Contains(os.Args, "--version") {
		fmt.Printf("Firecracker v%s\n\n", f.version())
		os.Exit(0)
	}
	os.Exit(f.run())
}

func (f *fakeFirecracker) version() string {
	switch f.mode {
	case modeOld:
		return "1.9.1"
	case modeOlder:
		return "1.15.1"
	}
	return "1.16.1"
}

type fakeFirecracker struct {
	mode      string
	log       *os.File
	config    fcapi.Config
	mu        sync.Mutex
	listening bool
	state     string
}

func option(name string) string {
	i := slices.Index(os.Args, "--"+name)
	if i < 0 || i+1 == len(os.Args) {
		panic("no option " + name)
	}
	return os.Args[i+1]
}

// fail is what Firecracker does with a configuration that it does not like.
func (f *fakeFirecracker) fail(code int, sentence, debug string) int {
	fmt.Fprintf(f.log, "2026-01-02T03:04:05.678901234 [%s:main:WARN] something in passing\n", option("id"))
	if sentence != "" {
		fmt.Fprintf(f.log, "2026-01-02T03:04:05.678901234 [%s:main:ERROR] RunWithApiError error: Failed to build MicroVM from Json: %s\n", option("id"), sentence)
		fmt.Fprintf(f.log, "2026-01-02T03:04:05.678901234 [%s:main:ERROR] Firecracker exiting with error. exit_code=%d\n", option("id"), code)
	}
	fmt.Fprintln(os.Stderr, "Error: "+debug)
	return code
}

func (f *fakeFirecracker) run() int {
	var err error
	if f.log, err = os.OpenFile(option("log-path"), os.O_RDWR, 0); err != nil {
		panic(err)
	}
	restores := !slices.Contains(os.Args, "--config-file")
	if f.mode == "" && restores {
		f.mode = modeGood
		if state, err := readState(); err == nil {
			f.mode = state.Mode
		}
	} else if f.mode == "" {
		text, err := os.ReadFile(kernelName)
		if err != nil {
			panic(err)
		}
		f.mode = strings.TrimPrefix(string(text), "\x7fELF")
	}
	switch f.mode {
	case modeEarly:
		return f.fail(1, "", "RunWithApi(FailedToBindSocket)")
	case modeKilled:
		self, _ := os.FindProcess(os.Getpid())
		_ = self.Kill()
		select {}
	}
	if f.mode == modeRefusing {
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err == nil {
			err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: option("api-sock")})
		}
		if err != nil {
			panic(err)
		}
		select {}
	}
	if f.mode == modeSlow {
		time.Sleep(slowness)
	}
	api, err := net.Listen("unix", option("api-sock"))
	if err != nil {
		return f.fail(1, "Failed to open the API socket", "RunWithApi(FailedToBindSocket)")
	}
	if restores {
		f.state = fcapi.StateNotStarted
		panic((&http.Server{Handler: f}).Serve(api))
	}
	text, err := os.ReadFile(option("config-file"))
	if err == nil {
		err = json.Unmarshal(text, &f.config)
	}
	if err != nil {
		return f.fail(152, "Invalid JSON", err.Error())
	}
	kernel, err := os.ReadFile(f.config.BootSource.KernelImagePath)
	if err != nil || !strings.HasPrefix(string(kernel), "\x7fELF") {
		return f.fail(1, "Kernel Loader: failed to load ELF kernel image", "Elf(ReadElfHeader)")
	}
	if err := f.openDrives(); err != nil {
		return f.fail(1, "Configuration for VMM from one single json failed: Block device error: "+err.Error(), "BlockDevice")
	}
	if err := f.start(); err != nil {
		return f.fail(1, "Vsock error", "Vsock")
	}
	panic((&http.Server{Handler: f}).Serve(api))
}

// openDrives opens the disks as Firecracker does, which goes by whether they are read-only.
func (f *fakeFirecracker) openDrives() error {
	for _, d := range f.config.Drives {
		flags := os.O_RDWR
		if d.IsReadOnly {
			flags = os.O_RDONLY
		}
		file, err := os.OpenFile(d.PathOnHost, flags, 0)
		if err != nil {
			return fmt.Errorf("No such file or directory (os error 2) %s: %w", d.PathOnHost, err)
		}
		file.Close()
	}
	return nil
}

// start has the guest run.
func (f *fakeFirecracker) start() error {
	vsock, err := net.Listen("unix", f.config.Vsock.UDSPath)
	if err != nil {
		return err
	}
	f.state, f.listening = fcapi.StateRunning, f.mode == modeGood || f.mode == modeFlood || f.mode == modeSlow
	if f.mode == modePaused {
		f.state = fcapi.StateNotStarted
	}
	fmt.Println("hello from the guest")
	if f.mode == modeFlood {
		go f.flood()
	}
	go f.serveVsock(vsock)
	return nil
}

func (f *fakeFirecracker) serveVsock(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			panic(err)
		}
		f.connect(conn)
	}
}

func (f *fakeFirecracker) connect(conn net.Conn) {
	line, err := bufio.NewReaderSize(io.LimitReader(conn, 32), 32).ReadString('\n')
	var port uint32
	if err != nil || !f.listening {
		conn.Close()
		if f.mode == modeLate && err == nil {
			f.listening = true
			f.knock()
		}
		return
	}
	if _, err := fmt.Sscanf(line, "CONNECT %d\n", &port); err != nil {
		panic(line)
	}
	fmt.Fprintf(conn, "OK 1073741824\n%d:", port)
	if f.mode == modeFlood {
		go func() {
			defer conn.Close()
			for buf := make([]byte, 64<<10); ; {
				if _, err := conn.Write(buf); err != nil {
					fmt.Println("flood over")
					return
				}
			}
		}()
		return
	}
	go func() {
		_, _ = io.Copy(conn, conn)
		conn.Close()
	}()
}

// flood knocks until nobody answers the door any more.
func (f *fakeFirecracker) flood() {
	for {
		conn, err := net.Dial("unix", f.config.Vsock.UDSPath+"_1025")
		if err != nil {
			fmt.Println("door closed")
			return
		}
		_, _ = conn.Write([]byte("knock knock"))
		conn.Close()
	}
}

// knock is what the guest agent does.
func (f *fakeFirecracker) knock() {
	conn, err := net.Dial("unix", f.config.Vsock.UDSPath+"_1025")
	if err != nil {
		panic(err)
	}
	conn.Close()
}

func (f *fakeFirecracker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Println("API", r.Method, r.URL.Path, string(body)) // the console tells the test
	switch f.mode {
	case modeStarting:
		os.Exit(148)
	case modeShot:
		self, _ := os.FindProcess(os.Getpid())
		_ = self.Kill()
		select {}
	case modeSlow:
		time.Sleep(slowness)
	case modeBroken:
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"fault_message":"The kettle is on fire."}`)
		return
	case modeFault:
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"fault_message":"The requested operation is not supported in this tea room."}`)
		return
	case modeHalf:
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"id\"")
			conn.Close()
		}
		return
	case modeMute:
		select {}
	}
	f.answer(w, r, body)
	if f.mode == modePanics || f.mode == modeResets {
		_ = http.NewResponseController(w).Flush()
		if f.mode == modePanics {
			fmt.Print("Kernel panic - not syncing: out of tea\r\n")
		}
		os.Exit(0)
	}
}

func (f *fakeFirecracker) answer(w http.ResponseWriter, r *http.Request, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	switch r.Method + " " + r.URL.Path {
	case "GET /":
		_ = json.NewEncoder(w).Encode(fcapi.InstanceInfo{AppName: "Firecracker", ID: option("id"), State: f.state, VMMVersion: f.version()})
		return
	case "PATCH /vm":
		var vm fcapi.VM
		err = json.Unmarshal(body, &vm)
		f.state = map[string]string{fcapi.VMPaused: fcapi.StatePaused, fcapi.VMResumed: fcapi.StateRunning}[vm.State]
	case "PUT /snapshot/create":
		err = f.save(body)
	case "PUT /snapshot/load":
		err = f.load(body)
	default:
		if !strings.HasPrefix(r.URL.Path, "/drives/") || r.Method != http.MethodPatch {
			panic(r.URL.Path)
		}
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"fault_message": err.Error()})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// fakeState is the fake's file of a state.
type fakeState struct {
	Mode   string
	Config fcapi.Config
	End    string // shows that it is whole
}

func readState() (state fakeState, err error) {
	b, err := os.ReadFile(savedName(stateFile))
	if err == nil {
		err = json.Unmarshal(b, &state)
	}
	if err == nil && state.End != "." {
		err = fmt.Errorf("the end is missing")
	}
	return state, err
}

// fakePage is in the memory at this offset; the rest is zeros.
const (
	fakePage       = "the guest's memory"
	fakePageOffset = 5 << 20
)

func (f *fakeFirecracker) save(body []byte) error {
	var p fcapi.SnapshotCreateParams
	if err := json.Unmarshal(body, &p); err != nil || f.state != fcapi.StatePaused {
		return fmt.Errorf("Operation not allowed: not paused, or %w", err)
	}
	state := fakeState{f.mode, f.config, "."}
	b, err := json.Marshal(state)
	if err != nil {
		return err
	}
	switch f.mode {
	case modeFull:
		if err := os.WriteFile(p.SnapshotPath, b[:7], 0o600); err != nil {
			return err
		}
		return fmt.Errorf("Cannot write memory file: No space left on device (os error 28)")
	case modeDiesSave:
		_ = os.WriteFile(p.SnapshotPath, b[:7], 0o600)
		os.Exit(149)
	case modeTricks:
		if err := os.Symlink("/etc/passwd", p.SnapshotPath); err != nil {
			return err
		}
	default:
		if err := os.WriteFile(p.SnapshotPath, b, 0o600); err != nil {
			return err
		}
	}
	memory := make([]byte, f.config.MachineConfig.MemSizeMiB<<20) // as zeros, not as a hole
	copy(memory[fakePageOffset:], fakePage)
	return os.WriteFile(p.MemFilePath, memory, 0o600)
}

func (f *fakeFirecracker) load(body []byte) error {
	if f.mode == modeDiesLoad {
		os.Exit(148)
	}
	var p fcapi.SnapshotLoadParams
	if err := json.Unmarshal(body, &p); err != nil || f.state != fcapi.StateNotStarted {
		return fmt.Errorf("Loading a microVM snapshot not allowed: %w", err)
	}
	state, err := readState()
	if err != nil {
		return fmt.Errorf("Load snapshot error: Failed to restore from snapshot: Failed to get snapshot state from file: %w", err)
	}
	if p.SnapshotPath != savedName(stateFile) || p.MemBackend.BackendPath != savedName(memoryFile) {
		return fmt.Errorf("other paths: %s", body)
	}
	if _, err := os.ReadFile(p.MemBackend.BackendPath); err != nil {
		return err
	}
	f.config = state.Config
	if err := f.openDrives(); err != nil {
		return err
	}
	if err := f.start(); err != nil {
		return err
	}
	if !p.ResumeVM {
		f.state = fcapi.StatePaused
	}
	return nil
}
