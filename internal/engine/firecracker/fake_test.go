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
		version := "1.16.1"
		if f.mode == modeOld {
			version = "1.9.1"
		}
		fmt.Printf("Firecracker v%s\n\n", version)
		os.Exit(0)
	}
	os.Exit(f.run())
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
	if f.mode == "" {
		text, err := os.ReadFile(filesName + "/kernel")
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
	for _, d := range f.config.Drives {
		if _, err := os.Stat(d.PathOnHost); err != nil {
			return f.fail(1, "Configuration for VMM from one single json failed: Block device error: No such file or directory (os error 2) "+d.PathOnHost, "BlockDevice")
		}
	}
	vsock, err := net.Listen("unix", f.config.Vsock.UDSPath)
	if err != nil {
		return f.fail(1, "Vsock error", "Vsock")
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
	panic((&http.Server{Handler: f}).Serve(api))
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
	if r.Method == http.MethodPatch && r.URL.Path == "/vm" {
		var vm fcapi.VM
		if err := json.Unmarshal(body, &vm); err != nil {
			panic(err)
		}
		f.state = map[string]string{fcapi.VMPaused: fcapi.StatePaused, fcapi.VMResumed: fcapi.StateRunning}[vm.State]
		w.WriteHeader(http.StatusNoContent)
		return
	}
	_ = json.NewEncoder(w).Encode(fcapi.InstanceInfo{AppName: "Firecracker", ID: option("id"), State: f.state, VMMVersion: "1.16.1"})
}
