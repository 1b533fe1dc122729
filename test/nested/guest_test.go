package nested

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/internal/paths"
)

// chosen is what `agentkernel doctor` says when sandboxes are to run on Firecracker.
const chosen = "engine: firecracker is used"

// ended is a line of testdata/init.sh.
var ended = regexp.MustCompile(`nested: suite (\w+) ended with (\d+)`)

// failure is a line of a failed test, or of a failed part of one.
var failure = regexp.MustCompile(`^\s*--- FAIL: (\S+)`)

// processor is a model with AMD's virtualization, without what QEMU would only say that it cannot emulate. It needs xsave for
// Firecracker, and avx because signals fail in nested guests with one of the two alone.
const processor = "EPYC,+svm,+npt,-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext,-nrip-save,-xsavec"

// inGuest runs the suites in an emulated machine with hardware virtualization. QEMU 7.2 emulates that with faults: with two
// CPUs it spoils a nested guest now and then (it spins, or panics in an interrupt; some 2 in 45 starts), with one the whole
// machine stops in most long runs.
func inGuest(ctx context.Context, t *testing.T, dirs paths.Dirs, programs map[string]string) {
	dir := t.TempDir()
	kernel := distributionKernel(ctx, t, filepath.Join(dirs.Cache(), "nested"))
	initramfs := filepath.Join(dir, "initramfs.cpio")
	writeInitramfs(t, initramfs, kernel)
	disk := filepath.Join(dir, "disk.ext4")
	writeDisk(ctx, t, disk, dirs, programs)

	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "q35", "-accel", "tcg,tb-size=1024", "-cpu", processor, "-smp", "2", "-m", "3G",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none", "-serial", "stdio",
		"-kernel", kernel.image, "-initrd", initramfs,
		// The outer guest is nobody's prison. Many distributions give huge pages to all: what a VMM holds must not depend on that.
		"-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off tsc=reliable random.trust_cpu=on transparent_hugepage=always",
		"-drive", "file="+strings.ReplaceAll(disk, ",", ",,")+",format=raw,if=none,id=disk,cache=unsafe", "-device", "virtio-blk-pci,drive=disk",
	)
	cmd.Stderr = os.Stderr
	console, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the outer guest (apt-get install qemu-system-x86): %v", err)
	}
	report := follow(console, os.Stdout)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the outer guest: %v", err)
	}
	report.check(t)
}

// report is what the outer guest's console said.
type report struct {
	chosen, complete bool
	codes            map[string]string // exit codes by suite
	failed           []string
}

// follow copies the console to out, and picks out what matters.
func follow(console io.Reader, out io.Writer) report {
	r := report{codes: map[string]string{}}
	lines := bufio.NewReader(console)
	for {
		line, err := lines.ReadString('\n')
		fmt.Fprint(out, line)
		line = strings.TrimRight(line, "\r\n")
		if m := ended.FindStringSubmatch(line); m != nil {
			r.codes[m[1]] = m[2]
		}
		if m := failure.FindStringSubmatch(line); m != nil {
			r.failed = append(r.failed, m[1])
		}
		r.chosen = r.chosen || strings.Contains(line, chosen)
		r.complete = r.complete || strings.Contains(line, "nested: the end")
		if err != nil {
			return r
		}
	}
}

func (r report) check(t *testing.T) {
	t.Helper()
	if !r.chosen {
		t.Error("agentkernel did not choose Firecracker in the outer guest: see what its doctor says")
	}
	for _, suite := range suites {
		names := []string{suite.name}
		if suite.user != "" {
			names = append(names, "user_"+suite.name)
		}
		for _, name := range names {
			switch code, ok := r.codes[name]; {
			case !ok:
				t.Errorf("the suite %s did not end", name)
			case code != "0":
				t.Errorf("the suite %s ended with exit code %s", name, code)
			}
		}
	}
	for _, name := range r.failed {
		t.Errorf("failed: %s", name)
	}
	if !r.complete {
		t.Error("the outer guest ended before its work did")
	}
}

func TestReport(t *testing.T) {
	good := "ok  " + chosen + ": it is preferred\r\n--- PASS: TestA (1s)\r\nnested: suite vm ended with 0\r\nnested: suite script ended with 0\r\nnested: the end\r\n"
	r := follow(strings.NewReader(good), io.Discard)
	if !r.chosen || !r.complete || len(r.failed) > 0 || r.codes["vm"] != "0" || r.codes["script"] != "0" {
		t.Errorf("a good run is read as %+v", r)
	}
	bad := "--- FAIL: TestA (1s)\r\n    --- FAIL: TestA/b (1s)\r\nnested: suite vm ended with 1\r\nnested: suite"
	r = follow(strings.NewReader(bad), io.Discard)
	if r.chosen || r.complete || strings.Join(r.failed, " ") != "TestA TestA/b" || r.codes["vm"] != "1" || r.codes["script"] != "" {
		t.Errorf("a bad run is read as %+v", r)
	}
}
