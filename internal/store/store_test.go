package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

const id = "0123456789abcdef"

func record(id, name string) sandbox.Record {
	return sandbox.Record{
		Version: sandbox.RecordVersion, ID: id, State: sandbox.Stopped,
		Spec:      sandbox.Spec{Name: name, Image: "base", VCPUs: 1, MemoryMiB: 128, DiskMiB: 64, VsockCID: 3},
		CreatedAt: time.Unix(1700000000, 5).UTC(),
		Stages:    []sandbox.Stage{{Name: "spawn", Duration: 1500 * time.Microsecond}},
		Machine:   &sandbox.MachineRecord{Engine: "qemu", PID: 7, StartTime: 1 << 60, BootID: "b"},
	}
}

func put(t *testing.T, s *Store, r sandbox.Record) {
	t.Helper()
	if _, err := s.Stage(r.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(r); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "sandboxes"))
	if err != nil {
		t.Fatal(err)
	}
	want := record(id, "a")
	put(t, s, want)
	want.State = sandbox.Failed
	want.Reason = "because"
	if err := s.Save(want); err != nil {
		t.Fatal(err)
	}
	got, problems, err := s.Load()
	if err != nil || len(problems) != 0 {
		t.Fatal(problems, err)
	}
	if d := cmp.Diff([]sandbox.Record{want}, got); d != "" {
		t.Error(d)
	}
	if err := s.Remove(id); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(id); err != nil {
		t.Fatal("removing twice:", err)
	}
	if left, _ := os.ReadDir(s.root); len(left) != 0 {
		t.Error("left over:", left)
	}
}

// What cannot be read is named and left alone, and the others are read.
func TestLoadLeavesBadRecordsAlone(t *testing.T) {
	for name, content := range map[string]string{
		"empty":         "",
		"half-written":  `{"version":1,"id":"0123456789abcdef","spec":{"na`,
		"newer":         `{"version":99,"id":7}`,
		"no version":    `{"id":"0123456789abcdef"}`,
		"unknown state": `{"version":1,"id":"0123456789abcdef","state":"dreaming","spec":{"name":"a"}}`,
		"another id":    `{"version":1,"id":"1111111111111111","state":"stopped","spec":{"name":"a"}}`,
		"evil name":     `{"version":1,"id":"0123456789abcdef","state":"stopped","spec":{"name":"../a"}}`,
		"huge":          strings.Repeat(" ", maxRecordSize+1),
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			put(t, s, record(id, "bad"))
			put(t, s, record("aaaaaaaaaaaaaaaa", "good"))
			file := filepath.Join(s.Dir(id), recordFile)
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			records, problems, err := s.Load()
			if err != nil {
				t.Fatal(err)
			}
			if len(records) != 1 || records[0].Spec.Name != "good" {
				t.Errorf("records: %+v", records)
			}
			if len(problems) != 1 || problems[0].Path != file {
				t.Errorf("problems: %v", problems)
			}
			if after, err := os.ReadFile(file); err != nil || string(after) != content {
				t.Error("the record was changed:", err)
			}
		})
	}
}

// A crash before Commit or in the middle of Remove leaves nothing after the next Load.
func TestLoadCleansUp(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := s.Stage(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "upper.ext4"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.root, removePrefix+id), 0o700); err != nil {
		t.Fatal(err)
	}
	records, problems, err := s.Load()
	if err != nil || len(records)+len(problems) != 0 {
		t.Fatal(records, problems, err)
	}
	if left, _ := os.ReadDir(s.root); len(left) != 0 {
		t.Error("left over:", left)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"0123456789abcdef","state":"stopped","spec":{"name":"a"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(s.Dir(id), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.Dir(id), recordFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		records, problems, err := s.Load()
		if err != nil || len(records)+len(problems) != 1 {
			t.Fatal(records, problems, err)
		}
		for _, r := range records {
			if err := r.Validate(); err != nil {
				t.Error("an invalid record was read:", err)
			}
		}
	})
}
