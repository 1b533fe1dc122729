package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	if u, err := LoadUser(path); err != nil || u != (User{Engine: "auto"}) {
		t.Errorf("without a file: %+v, %v", u, err)
	}
	for text, want := range map[string]struct {
		user User
		err  string
	}{
		"": {User{Engine: "auto"}, ""},
		"[security]\nrequire_jailer = true\n[engine]\ndefault = 'firecracker'": {User{Engine: "firecracker", RequireJailer: true}, ""},
		"[security]\nrequire_jailer = 'yes'":                                   {User{}, ":2:18: require_jailer must be a boolean"},
		"[engine]\n  default = 'vmware'":                                       {User{}, ":2:13: default \"vmware\" is not an engine"},
		"[engine]\ndefault = ''":                                               {User{}, ":2:11: default"},
		"[security]\nrequire_jail = true":                                      {User{}, ":2:1: unknown key"},
		"require_jailer = true":                                                {User{}, ":1:1: unknown key"},
		"[sandbox]\nname = 'a'":                                                {User{}, "unknown section [sandbox]; valid sections are [engine], [security], [build], [registry]"},
		"[registry]\nmirrors = 'docker.io=m:5000, ghcr.io=n'":                  {User{Engine: "auto", Mirrors: "docker.io=m:5000, ghcr.io=n"}, ""},
		"[registry]\nmirrors = 'm:5000'":                                       {User{}, ":2:11: mirrors"},
		"[build]\nallow_projects = '/a, /b'":                                   {User{Engine: "auto", AllowProjects: "/a, /b"}, ""},
		"[build]\nallow_projects = '/a, b'":                                    {User{}, ":2:18: allow_projects"},
		"[build]\nallow_projects = ''":                                         {User{}, ":2:18: allow_projects"},
		"[security\n":                                                          {User{}, ":1:"},
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		u, err := LoadUser(path)
		if u != want.user || (err == nil) != (want.err == "") || err != nil && !strings.Contains(err.Error(), want.err) {
			t.Errorf("%q: %+v, %v; want %+v", text, u, err, want)
		}
	}
}

func TestMayBuild(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"src/one", "src-of-others", "link"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "src"), filepath.Join(dir, "link/src")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		allow, project string
		want           bool
	}{
		{"src", "src", true}, {"src", "src/one", true}, {"link/src", "src/one", true},
		{"src/one", "src", false}, {"src", "src-of-others", false}, {"gone", "src", false},
	} {
		u := User{AllowProjects: "/no/such/directory, " + filepath.Join(dir, c.allow)}
		if got := u.MayBuild(filepath.Join(dir, c.project)); got != c.want {
			t.Errorf("%s allows %s: %v", c.allow, c.project, got)
		}
	}
	if (User{}).MayBuild(dir) {
		t.Error("nothing allows something")
	}
}
