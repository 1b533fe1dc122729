package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func TestParseVersion(t *testing.T) {
	for in, want := range map[string]string{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright": "7.2.22",
		"QEMU emulator version 10.0.2":                                  "10.0.2",
		"QEMU emulator version 9.1.50 (v9.1.0-1-gabc)":                  "9.1.50",
		"qemu":                      "",
		"QEMU emulator version":     "",
		"QEMU emulator version abc": "",
	} {
		got, err := parseVersion(in)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

// fakeQEMU puts a shell script in the place of qemu-system-x86_64.
func fakeQEMU(t *testing.T, script string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFindBinary(t *testing.T) {
	const answer = `echo "QEMU emulator version 8.2.1"`
	for _, tc := range []struct {
		name, script string
		seccomp      bool
		wantErr      string
	}{
		{"with seccomp", answer, true, ""},
		{"without seccomp", `[ "$1" = -sandbox ] && exit 1; ` + answer, false, ""},
		{"too old", `echo "QEMU emulator version 5.2.0"`, false, "at least 6.0"},
		{"not QEMU", `echo hello`, false, "names no version"},
		{"broken", `exit 1`, false, "exit status 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := fakeQEMU(t, tc.script)
			t.Setenv("PATH", dir)
			var b binaries
			bin, err := b.find(t.Context(), sandbox.X8664)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("%v, want an error with %q", err, tc.wantErr)
				}
				return
			}
			want := binary{path: filepath.Join(dir, "qemu-system-x86_64"), version: "8.2.1", build: "8.2.1", seccomp: tc.seccomp}
			if err != nil || bin != want {
				t.Errorf("%+v, %v; want %+v", bin, err, want)
			}
		})
	}
}

func TestBinaryMissing(t *testing.T) {
	dir := fakeQEMU(t, "exit 0")
	for name, path := range map[string]string{"nowhere": t.TempDir(), "only in the current directory": "."} {
		t.Chdir(dir)
		t.Setenv("PATH", path)
		var b binaries
		_, err := b.find(t.Context(), sandbox.X8664)
		var e *sandbox.Error
		if !errors.As(err, &e) || e.Kind != sandbox.Unavailable || e.Hint == "" {
			t.Errorf("%s: %v, want an error with a hint", name, err)
		}
	}
}

// An upgraded QEMU is asked anew.
func TestBinaryIsForgotten(t *testing.T) {
	dir := fakeQEMU(t, `echo "QEMU emulator version 8.0.0"`)
	t.Setenv("PATH", dir)
	var b binaries
	if bin, err := b.find(t.Context(), sandbox.X8664); err != nil || bin.version != "8.0.0" {
		t.Fatalf("%+v, %v", bin, err)
	}
	newer := fakeQEMU(t, `echo "QEMU emulator version 9.0.0"`)
	if err := os.Rename(filepath.Join(newer, "qemu-system-x86_64"), filepath.Join(dir, "qemu-system-x86_64")); err != nil {
		t.Fatal(err)
	}
	if bin, err := b.find(t.Context(), sandbox.X8664); err != nil || bin.version != "9.0.0" {
		t.Errorf("%+v, %v; want the new version", bin, err)
	}
}
