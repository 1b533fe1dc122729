package identity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s: %q, %v; want %q", path, got, err, want)
	}
}

func TestMachineID(t *testing.T) {
	root := t.TempDir()
	a, b := strings.Repeat("a", 32), strings.Repeat("b", 32)
	put(t, root+"/etc/os-release", "")
	for range 2 {
		if err := SetMachineID(root, a); err != nil {
			t.Fatal(err)
		}
		has(t, root+"/etc/machine-id", a+"\n")
	}
	// A link is replaced and not followed; the file of D-Bus is changed where there is one.
	elsewhere := root + "/elsewhere"
	put(t, elsewhere, "x")
	put(t, root+"/var/lib/dbus/machine-id", a+"\n")
	if err := os.Remove(root + "/etc/machine-id"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, root+"/etc/machine-id"); err != nil {
		t.Fatal(err)
	}
	if err := SetMachineID(root, b); err != nil {
		t.Fatal(err)
	}
	has(t, elsewhere, "x")
	has(t, root+"/etc/machine-id", b+"\n")
	has(t, root+"/var/lib/dbus/machine-id", b+"\n")
	for _, bad := range []string{"", strings.Repeat("0", 32), strings.Repeat("A", 32), a + "a", strings.Repeat("a", 31) + "\n"} {
		if err := SetMachineID(root, bad); err == nil {
			t.Errorf("%q is a machine id", bad)
		}
	}
}

// TestTemplateID checks that the file of a template is changed and not made anew, and that nothing is left of its name.
func TestTemplateID(t *testing.T) {
	root := t.TempDir()
	path := root + "/etc/machine-id"
	put(t, path, templateID+"\n")
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := SetMachineID(root, strings.Repeat("a", 32)); err != nil {
		t.Fatal(err)
	}
	has(t, path, strings.Repeat("a", 32)+"\n")
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Error("it is another file", err)
	}
}

func TestNames(t *testing.T) {
	etc := t.TempDir() + "/etc"
	if err := writeNames(etc, "(none)", "one"); err != nil {
		t.Fatal(err)
	}
	has(t, etc+"/hostname", "one\n")
	put(t, etc+"/hosts", "127.0.0.1\tmine one\n") // changed in the sandbox
	if err := writeNames(etc, "one", "two"); err != nil {
		t.Fatal(err)
	}
	has(t, etc+"/hostname", "two\n")
	has(t, etc+"/hosts", "127.0.0.1\tmine one\n")
	has(t, etc+"/resolv.conf", "")
	if err := writeNames(etc, "two", "x"); err != nil {
		t.Fatal(err)
	}
	has(t, etc+"/hostname", "x\n")
	// A boot with the disk of a template.
	put(t, etc+"/hostname", templateName+"\n")
	if err := writeNames(etc, "(none)", "x"); err != nil {
		t.Fatal(err)
	}
	has(t, etc+"/hostname", "x\n")
}

func TestRemoveHostKeys(t *testing.T) {
	root := t.TempDir()
	if n, err := RemoveHostKeys(root, func(string) bool { return false }); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, name := range []string{"ssh_host_rsa_key", "ssh_host_rsa_key.pub", "ssh_host_own_key", "sshd_config", "ssh_host_rsa_key-cert.pub"} {
		put(t, root+"/etc/ssh/"+name, "")
	}
	n, err := RemoveHostKeys(root, func(path string) bool { return path == "etc/ssh/ssh_host_own_key" })
	left, _ := os.ReadDir(root + "/etc/ssh")
	if n != 3 || err != nil || len(left) != 2 {
		t.Errorf("%d, %v, %v", n, err, left)
	}
}
