package paths

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLocate(t *testing.T) {
	for _, tc := range []struct {
		name string
		env  map[string]string
		want Dirs
	}{
		{"home", map[string]string{"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/7"},
			Dirs{"/h/.local/share/agentkernel", "/h/.local/state/agentkernel", "/run/user/7/agentkernel", "/h/.config/agentkernel/config.toml"}},
		{"xdg", map[string]string{"HOME": "/h", "XDG_DATA_HOME": "/d", "XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c", "XDG_RUNTIME_DIR": "/r"},
			Dirs{"/d/agentkernel", "/s/agentkernel", "/r/agentkernel", "/c/agentkernel/config.toml"}},
		{"relative xdg is ignored", map[string]string{"HOME": "/h", "XDG_DATA_HOME": "d", "XDG_RUNTIME_DIR": "/r"},
			Dirs{"/h/.local/share/agentkernel", "/h/.local/state/agentkernel", "/r/agentkernel", "/h/.config/agentkernel/config.toml"}},
		{"one directory for all", map[string]string{"AGENTKERNEL_HOME": "/a", "HOME": "/h", "XDG_RUNTIME_DIR": "/r"},
			Dirs{"/a/data", "/a/state", "/a/run", "/a/config.toml"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := locate(func(k string) string { return tc.env[k] })
			if err != nil || got != tc.want {
				t.Errorf("locate = %+v, %v; want %+v", got, err, tc.want)
			}
		})
	}
	if _, err := locate(func(string) string { return "" }); err == nil {
		t.Error("no HOME: no error")
	}
}

func TestFindRefusesAForeignRuntimeDirectory(t *testing.T) {
	home := t.TempDir()
	if err := os.Symlink("/", filepath.Join(home, "run")); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(func(k string) string { return map[string]string{"AGENTKERNEL_HOME": home}[k] }); err == nil {
		t.Error("a symlink as runtime directory was accepted")
	}
}

func TestFindMakesPrivateDirectories(t *testing.T) {
	home := filepath.Join(t.TempDir(), "x")
	d, err := Find(func(k string) string { return map[string]string{"AGENTKERNEL_HOME": home}[k] })
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{d.Data, d.State, d.Runtime} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want mode 0700", dir, info.Mode(), err)
		}
	}
}
