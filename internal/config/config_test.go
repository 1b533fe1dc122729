package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

const seed = `# agentkernel.toml
[sandbox]
name = "my-project"
rootfs = "python"    # base, python, node, rust, or path to custom image

[agent]
preferred = "claude"  # claude, gemini, codex, opencode

[resources]
vcpus = 2
memory_mb = 512      # MicroVMs are memory-efficient

[network]
vsock_cid = 3        # Auto-assigned if not specified
`

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want File
	}{
		"empty":          {"", File{}},
		"everything":     {seed, File{Name: "my-project", Rootfs: "python", Agent: "claude", VCPUs: 2, MemoryMiB: 512, VsockCID: 3}},
		"dotted":         {"sandbox.name = 'a'\nresources.vcpus = 0x4", File{Name: "a", VCPUs: 4}},
		"disk and idle":  {"[sandbox]\nidle_timeout = \"90s\"\n[resources]\ndisk_mb = 2048", File{DiskMiB: 2048, IdleTimeoutMs: 90_000}},
		"inline":         {"resources = {vcpus = 3, memory_mb = 1_024}", File{VCPUs: 3, MemoryMiB: 1024}},
		"path":           {"[sandbox]\nrootfs = './images/my.ext4'", File{Rootfs: "./images/my.ext4"}},
		"CRLF, BOM-less": {"[agent]\r\npreferred = \"codex\"\r\n", File{Agent: "codex"}},
		"largest CID":    {"network.vsock_cid = 4294967294", File{VsockCID: 4294967294}},
	} {
		got, err := Parse([]byte(tc.in), "agentkernel.toml")
		if err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"unknown key": {
			"[resources]\nvcpus = 1\n  memory = 512",
			`f:3:3: unknown key "memory" in [resources]; valid keys are vcpus, memory_mb, disk_mb`,
		},
		"unknown section":      {"[sandbox]\n[security]\nx = 1", `f:2:2: unknown section [security]; valid sections are [sandbox], [agent], [resources], [network]`},
		"key without section":  {"\nname = 'a'", `f:2:1: unknown key "name" outside of a section; valid sections are [sandbox], [agent], [resources], [network]`},
		"section as key":       {"agent = 'claude'", `f:1:1: agent must be a section, [agent], and not a string`},
		"section as array":     {"[[agent]]\npreferred = 'claude'", `f:1:3: agent must be a section, [agent], and not an array`},
		"wrong type":           {"[resources]\nvcpus = '2'", `f:2:9: vcpus must be an integer, such as vcpus = 2, and not a string`},
		"float":                {"[resources]\nmemory_mb = 512.0", `f:2:13: memory_mb must be an integer, such as memory_mb = 512, and not a float`},
		"table for a value":    {"[sandbox.name]\nx = 1", `f:1:10: name must be a string, such as name = "my-project", and not a table`},
		"unknown agent":        {"[agent]\npreferred = 'hal'", `f:2:13: unknown agent "hal"; choose one of claude, gemini, codex, opencode`},
		"empty agent":          {"[agent]\npreferred = ''", `f:2:13: preferred is empty; choose one of claude, gemini, codex, opencode, or leave it out`},
		"bad name":             {"[sandbox]\nname = '../a'", `f:2:8: "../a" is not a sandbox name; use lower-case letters, digits, '-', '_' and '.'; begin and end with a letter or digit`},
		"empty name":           {"[sandbox]\nname = ''", `f:2:8: a sandbox's name is empty; give it a name such as my-project`},
		"no vcpus":             {"[resources]\nvcpus = 0", `f:2:9: vcpus 0 cannot be had; ask for 1 to 32`},
		"too many vcpus":       {"resources = {vcpus = 9223372036854775807}", `f:1:22: vcpus 2147483647 cannot be had; ask for 1 to 32`},
		"little disk":          {"[resources]\ndisk_mb = 8", `f:2:11: a disk of 8 MiB cannot be had; ask for 64 MiB to 16 TiB`},
		"idle soon":            {"[sandbox]\nidle_timeout = \"0.5s\"", `f:2:16: an idle timeout of 500 ms cannot be had; use 1 s to 365 days, or 0 for none`},
		"idle at no time":      {"[sandbox]\nidle_timeout = \"soon\"", `f:2:16: idle_timeout "soon" is not a duration; write it as 30m or 2h, or leave it out`},
		"little memory":        {"[resources]\nmemory_mb = 8", `f:2:13: memory of 8 MiB is too little for a microVM; ask for at least 64 MiB`},
		"negative memory":      {"[resources]\nmemory_mb = -1", `f:2:13: memory of -1 MiB is too little for a microVM; ask for at least 64 MiB`},
		"CID 0":                {"[network]\nvsock_cid = 0", `f:2:13: vsock_cid 0 cannot be used; use 3 to 4294967294, or leave it out to have one assigned`},
		"CID of all":           {"[network]\nvsock_cid = 4294967295", `f:2:13: vsock_cid 4294967295 cannot be used; use 3 to 4294967294, or leave it out to have one assigned`},
		"absolute rootfs":      {"[sandbox]\nrootfs = '/etc/shadow'", `f:2:10: rootfs "/etc/shadow" is outside of this directory; give a path below it, or the name of an image`},
		"rootfs above":         {"[sandbox]\nrootfs = './a/../../b'", `f:2:10: rootfs "./a/../../b" is outside of this directory; give a path below it, or the name of an image`},
		"empty rootfs":         {"[sandbox]\nrootfs = ''", `f:2:10: rootfs is empty; name an image, such as base, or leave it out`},
		"control in rootfs":    {"[sandbox]\nrootfs = \"a\\u0000b\"", `f:2:10: rootfs "a\x00b" is neither the name of an image nor a path`},
		"everything at once":   {"[sandbox]\nname = 1\n[agent]\npreferred = 'x'\n[reso]\n", "f:2:8: name must be a string, such as name = \"my-project\", and not an integer\nf:4:13: unknown agent \"x\"; choose one of claude, gemini, codex, opencode\nf:5:2: unknown section [reso]; valid sections are [sandbox], [agent], [resources], [network]"},
		"integer out of range": {"[resources]\nvcpus = 99999999999999999999", "f:2:9: "},
		"syntax":               {"[sandbox]\nname = \n", "f:2:"},
		"twice":                {"[sandbox]\nname = 'a'\nname = 'b'", "f:3:1: "},
		"not UTF-8":            {"[sandbox]\nname = '\xff'", "f:2:9: "},
		"deep key":             {"[sandbox]\n" + strings.Repeat("a.", 30000) + "a = 1", `f:2:1: unknown key "a" in [sandbox]; valid keys are name, rootfs, dockerfile, idle_timeout`},
		"deep array":           {"[sandbox]\nname = " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), `f:2:1: name must be a string, such as name = "my-project", and not an array`},
		"too large":            {strings.Repeat("#\n", maxSize), "f: it has more than 65536 bytes"},
	} {
		got, err := Parse([]byte(tc.in), "f")
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if got != (File{}) {
			t.Errorf("%s: an error and %+v", name, got)
		}
		if sandbox.KindOf(err) != sandbox.Invalid {
			t.Errorf("%s: kind %s", name, sandbox.KindOf(err))
		}
		whole := !strings.HasSuffix(tc.want, ":") && !strings.HasSuffix(tc.want, ": ")
		if whole && err.Error() != tc.want || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%s:\n%s", name, cmp.Diff(tc.want, err.Error()))
		}
		var ps Problems
		if !errors.As(err, &ps) || len(ps) != strings.Count(err.Error(), "\n")+1 {
			t.Errorf("%s: %d problems in %q", name, len(ps), err)
		}
	}
}

func TestTemplateParses(t *testing.T) {
	for _, tc := range []struct {
		name, agent, image string
		want               File
	}{
		{"my-project", "claude", "base", File{Name: "my-project", Agent: "claude", Rootfs: "base", VCPUs: 1, MemoryMiB: 512}},
		{"a", "", "", File{Name: "a", VCPUs: 1, MemoryMiB: 512}},
		{"a", "", "./dir with \"quotes\" \\ é/x.ext4", File{Name: "a", Rootfs: "./dir with \"quotes\" \\ é/x.ext4", VCPUs: 1, MemoryMiB: 512}},
	} {
		got, err := Parse(Template(tc.name, tc.agent, tc.image), "agentkernel.toml")
		if err != nil || got != tc.want {
			t.Errorf("%+v: %+v, %v", tc, got, err)
		}
	}
	if _, err := Parse(Template("a\"\nb", "x\x7f", "\xff\n"), "f"); sandbox.KindOf(err) != sandbox.Invalid {
		t.Errorf("values that break out of their quotes: %v", err)
	}
}

func TestSpec(t *testing.T) {
	want := sandbox.Spec{Image: "base", VCPUs: 1, MemoryMiB: 512, DiskMiB: 10240}
	if got := (File{}).Spec(); !reflect.DeepEqual(got, want) {
		t.Errorf("defaults: %+v", got)
	}
	want = sandbox.Spec{Name: "n", Image: "python", Agent: "codex", VCPUs: 2, MemoryMiB: 1024, DiskMiB: 10240, VsockCID: 7}
	if got := (File{Name: "n", Rootfs: "python", Agent: "codex", VCPUs: 2, MemoryMiB: 1024, VsockCID: 7}).Spec(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestLoad(t *testing.T) {
	project := t.TempDir()
	write := func(name, data string) string {
		path := filepath.Join(project, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(target, name string) string {
		path := filepath.Join(project, name)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	real, err := filepath.EvalSymlinks(project)
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("[sandbox]\nname='secret'"), 0o644); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(project, "fifo")
	if err := syscall.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	write("images/my.ext4", "x")
	link("my.ext4", "images/link.ext4")
	link(outside, "images/out.ext4")

	good := map[string]string{ // path → Rootfs
		write("a.toml", "[sandbox]\nrootfs='python'"):                            "python",
		link("a.toml", "link.toml"):                                              "python",
		write("ref.toml", "[sandbox]\nrootfs='ghcr.io/owner/name:1'"):            "ghcr.io/owner/name:1",
		write("tag.toml", "[sandbox]\nrootfs='python:3.12-alpine'"):              "python:3.12-alpine",
		write("b.toml", "[sandbox]\nrootfs='./images/my.ext4'"):                  filepath.Join(real, "images/my.ext4"),
		write("c.toml", "[sandbox]\nrootfs='images/link.ext4'"):                  filepath.Join(real, "images/my.ext4"),
		write("exact.toml", strings.Repeat("#", maxSize-1)+"\n"):                 "",
		write("dir/../d.toml", "[sandbox]\nrootfs='./images/../images/my.ext4'"): filepath.Join(real, "images/my.ext4"),
	}
	for path, rootfs := range good {
		f, err := Load(path)
		if err != nil || f.Rootfs != rootfs {
			t.Errorf("%s: %+v, %v; want rootfs %s", path, f, err, rootfs)
		}
	}
	write("build/Dockerfile", "FROM scratch")
	link(outside, "build/out")
	f, err := Load(write("docker.toml", "[sandbox]\ndockerfile='build/../build/Dockerfile'"))
	if err != nil || f.Dockerfile != filepath.Join(real, "build/Dockerfile") || f.Dir != real {
		t.Errorf("%+v, %v", f, err)
	}
	for path, want := range map[string]string{
		write("both.toml", "[sandbox]\nrootfs='base'\ndockerfile='build/Dockerfile'"): "both.toml:3:12: rootfs and dockerfile both",
		write("above.toml", "[sandbox]\ndockerfile='../Dockerfile'"):                  "above.toml:2:12: dockerfile \"../Dockerfile\" is outside",
		write("absolute.toml", "[sandbox]\ndockerfile='/etc/passwd'"):                 "absolute.toml:2:12: dockerfile \"/etc/passwd\" is outside",
		write("linked.toml", "[sandbox]\ndockerfile='build/out'"):                     "linked.toml:2:12: dockerfile \"build/out\" cannot be used",
		write("gone.toml", "[sandbox]\ndockerfile='Dockerfile'"):                      "gone.toml:2:12: dockerfile \"Dockerfile\": there is no such file",
		write("fifo.toml", "[sandbox]\ndockerfile='fifo'"):                            "fifo.toml:2:12: dockerfile \"fifo\" is not a regular file",
		write("empty.toml", "[sandbox]\ndockerfile=''"):                               "empty.toml:2:12: dockerfile is empty",
		link(outside, "out.toml"):                                                     "out.toml: ",
		link("/dev/zero", "zero.toml"):                                                "zero.toml: ",
		link("loop.toml", "loop.toml"):                                                "loop.toml: ",
		fifo:                                                                          "fifo: it is not a regular file",
		project:                                                                       "", // a directory
		write("big.toml", strings.Repeat("#", maxSize)+"\n"):                          "big.toml: it has more than 65536 bytes",
		write("e.toml", "[sandbox]\nrootfs='images/out.ext4'"):                        `e.toml:2:8: rootfs "images/out.ext4" cannot be used`,
		write("f.toml", "[sandbox]\nrootfs='./images'"):                               `f.toml:2:8: rootfs "./images" is not a regular file`,
		write("g.toml", "[sandbox]\nrootfs='./fifo'"):                                 `g.toml:2:8: rootfs "./fifo" is not a regular file`,
		write("typo.toml", "[sandbox]\nrootfs='images/none'"):                         `typo.toml:2:8: rootfs "images/none": there is no such file`,
		write("local.toml", "[sandbox]\nrootfs='docker://secret'"):                    `local.toml:2:8: rootfs "docker://secret" is of another program's store`,
		write("h.toml", "[sandbox]\nrootfs='./images/none'"):                          `h.toml:2:8: rootfs "./images/none": there is no such file`,
		write("i.toml", "[sandbox]\nrootfs='./images/my.ext4/more'"):                  `i.toml:2:8: rootfs "./images/my.ext4/more" cannot be used`,
	} {
		f, err := Load(path)
		if sandbox.KindOf(err) != sandbox.Invalid || !strings.Contains(err.Error(), want) || f != (File{}) {
			t.Errorf("%s: %+v, %v; want an error with %q", path, f, err, want)
		}
	}
	for _, path := range []string{filepath.Join(project, "none.toml"), filepath.Join(project, "none", "x.toml")} {
		if _, err := Load(path); sandbox.KindOf(err) != sandbox.NotFound {
			t.Errorf("%s: %v, want not found", path, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(seed))
	f.Add([]byte("sandbox.name = 'a'\nresources = {vcpus = 2, x.y = 3}\n[[agent]]\n[network.a]"))
	f.Add([]byte("[sandbox]\nrootfs = \"\"\"\\\n  a\"\"\"\nname = 'a\x00'"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data, "f")
		if err != nil {
			var ps Problems
			if !errors.As(err, &ps) || len(ps) == 0 {
				t.Fatalf("%v has no problems", err)
			}
			for _, p := range ps {
				if p.Line < 1 && len(data) <= maxSize {
					t.Errorf("%v has no position", p)
				}
			}
			return
		}
		spec := file.Spec()
		spec.Arch = sandbox.X8664
		if spec.Name == "" {
			spec.Name = "a"
		}
		if err := spec.Validate(sandbox.Host{}); err != nil {
			t.Errorf("what Parse lets through is not valid: %v", err)
		}
	})
}
