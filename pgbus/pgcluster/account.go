package pgcluster

import (
	"errors"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// An account is the user that PostgreSQL runs as; the zero value is the user of this process.
type account struct {
	name       string
	credential *syscall.Credential
}

// chooseAccount finds another user where this process runs as root, as whom PostgreSQL does not run.
func chooseAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errU := strconv.ParseUint(u.Uid, 10, 32)
		gid, errG := strconv.ParseUint(u.Gid, 10, 32)
		if errU == nil && errG == nil {
			return account{name, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
		}
	}
	return account{}, errors.New("PostgreSQL does not run as root, and there is neither a user " +
		"postgres nor a user nobody: make one")
}

// own makes the account the owner of a path.
func (a account) own(path string) error {
	if a.credential == nil {
		return nil
	}
	return os.Chown(path, int(a.credential.Uid), int(a.credential.Gid))
}

// Own makes the user that PostgreSQL runs as on this machine the owner of a path.
func Own(path string) error {
	a, err := chooseAccount()
	if err != nil {
		return err
	}
	return a.own(path)
}
