package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	if u, err := LoadUser(path); err != nil || u != defaults() {
		t.Errorf("without a file: %+v, %v", u, err)
	}
	with := func(change func(*User)) User {
		u := defaults()
		change(&u)
		return u
	}
	for text, want := range map[string]struct {
		user User
		err  string
	}{
		"": {defaults(), ""},
		"[security]\nrequire_jailer = true\n[engine]\ndefault = 'firecracker'": {with(func(u *User) { u.Engine, u.RequireJailer = "firecracker", true }), ""},
		"[security]\nrequire_jailer = 'yes'":                                   {User{}, ":2:18: require_jailer must be a boolean"},
		"[engine]\n  default = 'vmware'":                                       {User{}, ":2:13: default \"vmware\" is not an engine"},
		"[engine]\ndefault = ''":                                               {User{}, ":2:11: default"},
		"[security]\nrequire_jail = true":                                      {User{}, ":2:1: unknown key"},
		"require_jailer = true":                                                {User{}, ":1:1: unknown key"},
		"[sandbox]\nname = 'a'":                                                {User{}, "unknown section [sandbox]; valid sections are [engine], [security], [build], [templates], [pool], [registry]"},
		"[registry]\nmirrors = 'docker.io=m:5000, ghcr.io=n'":                  {with(func(u *User) { u.Mirrors = "docker.io=m:5000, ghcr.io=n" }), ""},
		"[registry]\nmirrors = 'm:5000'":                                       {User{}, ":2:11: mirrors"},
		"[build]\nallow_projects = '/a, /b'":                                   {with(func(u *User) { u.AllowProjects = "/a, /b" }), ""},
		"[build]\nallow_projects = '/a, b'":                                    {User{}, ":2:18: allow_projects"},
		"[build]\nallow_projects = ''":                                         {User{}, ":2:18: allow_projects"},
		"[templates]\nmax_size_mib = 0\n[pool]\nsize = 2\nimages = 'base, b'":  {with(func(u *User) { u.Templates.MaxSizeMiB, u.Pool.Size, u.Pool.Images = 0, 2, "base, b" }), ""},
		"[templates]\nmax_age_days = 0":                                        {User{}, ":2:16: max_age_days 0 is out of bounds; use 1 to 3650"},
		"[pool]\nsize = -1":                                                    {User{}, ":2:8: size -1"},
		"[pool]\nimages = ' , '":                                               {User{}, ":2:10: images"},
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
