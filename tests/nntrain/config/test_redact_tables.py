"""Which keys and texts are secret, and which everyday words of training are not."""

import pytest

from nntrain.config.redact import Redactor, is_secret

SECRET_KEYS = """
    privkey priv_key ssh_key SSH_PRIVATE_KEY pem pkey signing_key encryption_key hmac_key
    access_key_id account_key AccountKey SharedAccessKey license_key api-key apikey X-Api-Key
    pat PAT github_pat AZURE_PAT pats sas sas_token sas_url AZURE_SAS
    pw db_pw dbPw pass smtp_pass DB_PASS smtpPass userpass keypass pass1 pwd Pwd db.pwd sql_pwd
    passwd passphrase pass_phrase passcode SMTP_PASSWORD_FILE
    cookie cookies session_cookie Set-Cookie session_id sessionid bearer bearer_token csrf_token
    refresh_token id_token x-auth-token authToken slackToken
    jwt JWT id_jwt otp otp_code totp mfa_code signature X-Amz-Signature x_signature
    webhook webhook_url webhookUrl slack_webhook SLACK_WEBHOOK_URL discord_webhook teams_webhook
    basic_auth http_auth credentials aws_credentials connection_string connStr
"""

EVERYDAY_KEYS = """
    use_cls_token num_memory_tokens max_tokens min_new_tokens eos_token pad_token mask_token
    n_tokens token_dim tokens_per_s tokenizer tokenizer_path
    pass_through pass_rate passes passes_per_epoch num_passes n_pass forward_pass first_pass
    encoder_pass low_pass lowpass bypass compass encompass passive passage passing
    path pathway pattern patch patch_size patience patient compat spat sasrec
    pwm pwise power
    keypoints keypoint_loss key_padding_mask query_key primary_key num_keys sort_key keyboard
    monkey monkeys hotkey turkey key keys
    signatures model_signature input_signature sigma signal sigmoid significance design
    bearing cookiecutter sessions session secretary author authors authority optimal otpimal
    webhooks_enabled jwt_enabled otp_len cookie_path lr seed weight_decay
"""


@pytest.mark.parametrize("key", SECRET_KEYS.split())
def test_a_key_of_a_secret_is_recognized(key: str) -> None:
    assert is_secret(key)
    assert is_secret(f"trainer.{key}")


@pytest.mark.parametrize("key", EVERYDAY_KEYS.split())
def test_a_key_with_an_everyday_meaning_is_not_secret(key: str) -> None:
    assert not is_secret(key)
    assert not is_secret(f"model.{key}")


S = "Zq7x9hunter2"

TEXTS = [
    # settings of databases
    f"Server=db;Uid=me;Pwd={S};Database=runs",
    f"Driver={{SQL}};UID=me;PWD={S}",
    f"DRIVER=x;PWD={{{S};more}}",
    f"host=db password={S} dbname=runs",
    f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={S}==;EndpointSuffix=x",
    f"Endpoint=sb://x/;SharedAccessKeyName=a;SharedAccessKey={S}",
    # webhooks
    f"https://hooks.slack.com/services/T000/B000/{S}",
    f"https://hooks.slack.com/workflows/T000/A000/1/{S}",
    f"https://discord.com/api/webhooks/123/{S}",
    f"https://discordapp.com/api/webhooks/123/{S}",
    f"https://ptb.discord.com/api/webhooks/123/{S}",
    f"https://contoso.webhook.office.com/webhookb2/a@b/IncomingWebhook/{S}/c",
    f"https://outlook.office.com/webhook/a@b/IncomingWebhook/{S}/c",
    f"https://prod-1.westus.logic.azure.com:443/workflows/a/triggers/manual/paths/invoke?sig={S}",
    f"https://hooks.zapier.com/hooks/catch/1/{S}",
    # headers
    f"Cookie: sid={S}; theme=dark",
    f"Set-Cookie: sid={S}; Path=/",
    f"Authorization: Basic {S}==",
    f"{{'Authorization': 'Bearer {S}'}}",
    f"bearer {S}",
    f"Bearer: {S}",
    f"X-Api-Key: {S}",
    # logins in addresses
    f"postgresql://me:{S}@db:5432/runs",
    f"postgresql://me:p@ss/{S}@db/runs",
    f"http://me:a#{S}@host/",
    f"http://me:a?{S}@host/",
    f"http://me:a%40{S}@host/",
    f"http://me:a@b:{S}@host/",
    f"redis://:{S}@host:6379/0",
    f"https://{S}@github.com/me/repo",
    # signed addresses
    f"https://x.blob.core.windows.net/c?sv=1&sig={S}&se=2",
    f"https://s3.amazonaws.com/b?X-Amz-Signature={S}",
    f"https://host/?jwt={S}",
    # keys and values
    *(f"{key}={S}" for key in ("pat", "pw", "pass", "jwt", "otp", "privkey", "sas", "bearer")),
    f"{{'pw': '{S}'}}",
    f'{{"jwt":"{S}"}}',
    f"token='a {S}'",
    f'token="a \\" {S}"',
    # YAML and sentences
    f"password: {S}",
    f"api_key: '{S}'",
    f"api_key = {S}",
    f"{{db: {{password: {S}}}}}",
    # forms of secrets
    f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{S}",
    f"ghp_{S * 2}",
    "AKIAABCDEFGHIJKLMNOP",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{S}\n-----END OPENSSH PRIVATE KEY-----",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_secret_that_is_not_known_is_hidden_in_a_text(text: str) -> None:
    for hidden in (Redactor().text(text), Redactor().value({"note": [text]})["note"][0]):
        assert "***" in hidden
        assert S not in hidden
        assert "ABCDEFGHIJ" not in hidden


@pytest.mark.parametrize(
    "text",
    [
        "PWD=/home/me OLDPWD=/tmp",
        "pwd=~/runs Pwd=C:\\runs",
        "forward pass: 0.9833 ms",
        "first pass = 12 s, second pass: 13 s",
        "password: required",
        "token: 12345",
        "signature: (x, y)",
        "unexpected token: }",
        "the bearer authentication failed",
        "patience=3 path=/a/b pattern=x*y passes=4 compass=2",
        "use_cls_token=True num_memory_tokens=16 max_tokens=4096 tokens: 4096",
        "keypoints=17 monkey=1 tokenizer=bpe pass_through=skip",
        "see https://discord.com/invite/pytorch and https://slack.com/help",
        "http://127.0.0.1:5000/#/experiments/1/runs/0a1b2c",
        "git+ssh://github.com/me/repo.git@v1.2",
        "model: {hidden: [64, 32]}, lr: 0.1",
    ],
)
def test_an_everyday_text_is_not_changed(text: str) -> None:
    assert Redactor().text(text) == text


@pytest.mark.parametrize(
    "word", ["admin", "auto", "epoch", "localhost", "nntrain", "runs", "torch", "train"]
)
def test_a_common_word_as_a_secret_does_not_blank_ordinary_text(word: str) -> None:
    text = Redactor(config={"password": word, "token": word.upper()}).text
    sentence = f"the {word} of {word.upper()} in x/{word}/y"
    assert text(sentence) == sentence
